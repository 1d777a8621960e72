"""The device mesh: data x model, and an outer replica axis when there are several slices."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import jax
from flax import linen as nn
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from palmscale import axes
from palmscale.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshSpec:
    """How many devices lie along each mesh axis; one of them may be -1, which is worked out.

    Attributes:
        data: devices along `data`: each has its part of the batch and of the weights.
        model: devices along `model`: each has its part of the heads, the MLP and the vocabulary.
        replicas: copies of the weights, one for each slice or group of devices.
    """

    data: int = -1
    model: int = 1
    replicas: int = 1

    def shape(self, num_devices: int) -> tuple[int, int, int]:
        """Returns (replicas, data, model), whose product is `num_devices`.

        Raises:
            UserError: the product cannot be `num_devices`.
        """
        sizes = [self.replicas, self.data, self.model]
        text = f"MeshSpec(replicas={self.replicas}, data={self.data}, model={self.model})"
        if any(size == 0 or size < -1 for size in sizes) or sizes.count(-1) > 1:
            raise UserError(f"{text}: sizes are positive, and at most one is -1 (worked out).")
        known = math.prod(size for size in sizes if size != -1)
        if num_devices % known or (-1 not in sizes and known != num_devices):
            raise UserError(
                f"{text} needs {'a multiple of ' if -1 in sizes else ''}{known} devices and there "
                f"are {num_devices}; change Layout.mesh, or Layout.simulated_devices on a CPU."
            )
        return tuple(num_devices // known if size == -1 else size for size in sizes)


def make_mesh(spec: MeshSpec, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh over `devices` (all by default), laid on the torus by `mesh_utils`.

    Replicas are slices, or equal parts of slices, if devices expose `slice_index`; otherwise they
    are consecutive groups of devices.

    Raises:
        UserError: the sizes do not make up the devices, or a replica would lie over two slices of
            TPUs.
    """
    devices = list(jax.devices() if devices is None else devices)
    replicas, data, model = shape = spec.shape(len(devices))
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    # Between hosts of other kinds of devices there is no torus that a replica could leave.
    lies_over_two = slices > 1 and replicas % slices != 0
    if lies_over_two and devices[0].platform == "tpu":
        raise UserError(
            f"MeshSpec.replicas={replicas} over {slices} slices: a replica would span two; use a"
            f" multiple of {slices}."
        )
    if slices > 1 and not lies_over_two:
        grid = mesh_utils.create_hybrid_device_mesh(
            (replicas // slices, data, model),
            (slices, 1, 1),
            devices,
            allow_split_physical_axes=True,
        )
    else:
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    names = (axes.REPLICA, axes.DATA, axes.MODEL)
    return Mesh(grid, names, axis_types=(AxisType.Auto,) * len(names))


@contextlib.contextmanager
def layout(mesh: Mesh, rules: Mapping[str, object]) -> Iterator[None]:
    """Enters the mesh and the rules together; `constrain` refuses one without the other.

    `with mesh:` would not do: Flax 0.12 ignores it without a word.
    """
    with jax.set_mesh(mesh), nn.logical_axis_rules(tuple(rules.items())), _plain_boxes():
        yield


@contextlib.contextmanager
def _plain_boxes() -> Iterator[None]:
    """Lets Flax take parameters out of their boxes without constraining them.

    Every parameter already has its sharding. Flax's constraint fails in nn.DenseGeneral, and so in
    its attention layers: they draw a kernel as a matrix and reshape it afterwards to the dims that
    the box names.
    """
    kinds = (nn.Partitioned, nn.LogicallyPartitioned)
    unboxes = [kind.unbox for kind in kinds]
    for kind in kinds:
        kind.unbox = lambda box, apply_constraint=True: box.value
    try:
        yield
    finally:
        for kind, unbox in zip(kinds, unboxes, strict=True):
            kind.unbox = unbox
