"""Where a run's arrays live: the mesh and the rules, described and then entered together."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import jax
from jax.sharding import Mesh, NamedSharding

from palmscale import axes
from palmscale.errors import UserError
from palmscale.partition import mesh as meshes
from palmscale.partition.mesh import MeshSpec
from palmscale.partition.rules import MeshAxes, layout_rules
from palmscale.partition.shardings import spec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Where arrays live.

    Attributes:
        mesh: sizes of the mesh axes.
        rules: name of a table in palmscale.partition.rules.
        overrides: logical axis to mesh axis, over the table.
        simulated_devices: CPU devices to simulate; None: the machine's own devices.
        topology: the slice that the mesh is meant for, such as `v4:4x4x4`. A plan reads it; a run
            takes the devices that there are.
        slices: number of such slices.
        tpu_options: options of the step's compiler by name, where the devices are TPUs.
    """

    mesh: MeshSpec = MeshSpec()
    rules: str = "2d"
    overrides: dict[str, MeshAxes] = dataclasses.field(default_factory=dict)
    simulated_devices: int | None = None
    topology: str | None = None
    slices: int = 1
    tpu_options: dict[str, str | int | float | bool] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.slices < 1:
            raise UserError(f"Layout.slices={self.slices} must be at least 1.")
        if self.simulated_devices is not None and self.simulated_devices < 1:
            raise UserError(
                f"Layout.simulated_devices={self.simulated_devices} must be at least 1."
            )

    def table(self) -> dict[str, MeshAxes]:
        """Returns the rules: the named table with the overrides."""
        return layout_rules(self.rules, self.overrides)

    def axis_sizes(self, num_devices: int | None) -> dict[str, int]:
        """Returns the size of each mesh axis over so many devices.

        None stands for as many as the mesh names, where it names all of its sizes.

        Raises:
            UserError: the mesh does not fit the devices.
        """
        if num_devices is None:
            num_devices = math.prod((self.mesh.replicas, self.mesh.data, self.mesh.model))
        shape = self.mesh.shape(num_devices)
        return dict(zip((axes.REPLICA, axes.DATA, axes.MODEL), shape, strict=True))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceLayout:
    """A layout on its devices, which need not exist."""

    mesh: Mesh
    rules: Mapping[str, MeshAxes]

    @property
    def batch_sharding(self) -> NamedSharding:
        """Of a [batch, length] array."""
        return NamedSharding(self.mesh, spec((axes.BATCH, axes.LENGTH), self.rules))

    @property
    def data_parallel(self) -> int:
        """Groups of devices that a batch is divided over."""
        return self.mesh.shape[axes.REPLICA] * self.mesh.shape[axes.DATA]

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Enters the mesh and the rules; `shardings.constrain` follows them."""
        with meshes.layout(self.mesh, self.rules):
            yield


@contextlib.contextmanager
def enter(layout: Layout, devices: Sequence[jax.Device] | None = None) -> Iterator[DeviceLayout]:
    """Places a layout on `devices`, by default all of the job's, and enters it.

    Raises:
        UserError: the mesh does not fit the devices, or a rule names no mesh axis.
    """
    placed = DeviceLayout(mesh=meshes.make_mesh(layout.mesh, devices), rules=layout.table())
    with placed.entered():
        yield placed


def data_parallel(layout: Layout, num_devices: int) -> int:
    """Returns over how many groups of devices a batch is divided."""
    sizes = layout.axis_sizes(num_devices)
    return sizes[axes.REPLICA] * sizes[axes.DATA]


def describe_mesh(mesh: Mesh) -> str:
    """Returns a mesh in words: `8 cpu device(s), data=4 x model=2`."""
    kind = mesh.devices.flat[0].device_kind
    sizes = " x ".join(f"{name}={size}" for name, size in mesh.shape.items() if size > 1)
    return f"{mesh.size} {kind} device(s){f', {sizes}' if sizes else ''}"
