"""How a model lies on the devices that generate: weights as in training, the rest on all."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from palmscale import axes
from palmscale.partition.layout import DeviceLayout
from palmscale.partition.mesh import MeshSpec, make_mesh
from palmscale.partition.rules import MeshAxes
from palmscale.partition.shardings import make_shardings, unbox


def generation_layout(
    trained_mesh: Mapping[str, int],
    trained_rules: Mapping[str, MeshAxes],
    devices: Sequence[jax.Device] | None = None,
) -> DeviceLayout:
    """Returns the layout of generation over all devices, with the rules that the model trained by.

    The mesh is that of training where the number of devices allows it: what divided over it then
    divides over it now.

    Args:
        trained_mesh: size of each mesh axis in training.
        trained_rules: logical axis to mesh axis in training.
        devices: to use, which need not exist; None: all that there are.
    """
    devices = jax.devices() if devices is None else devices
    model = math.gcd(len(devices), trained_mesh.get(axes.MODEL, 1))
    data = math.gcd(len(devices) // model, trained_mesh.get(axes.DATA, 1))
    copies = len(devices) // (data * model)
    return DeviceLayout(
        mesh=make_mesh(MeshSpec(data=data, model=model, replicas=copies), devices),
        rules=generation_rules(trained_rules),
    )


def generation_rules(trained_rules: Mapping[str, MeshAxes]) -> dict[str, MeshAxes]:
    """Returns the rules of training with samples and residual stream whole on every device.

    A sample is too small to be split, so the data axis splits weights alone.
    """
    whole = dict.fromkeys((axes.BATCH, axes.ACT_EMBED, axes.ACT_LENGTH))
    return {**trained_rules, **whole}


def placed(boxed_params: Any, layout: DeviceLayout) -> Any:
    """Returns the shapes of the parameters with their shardings in a layout.

    `boxed_params` are shapes with their logical axes, as `abstract_params` gives them.
    """
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        unbox(boxed_params),
        make_shardings(boxed_params, layout.mesh, layout.rules),
    )


def parameter_bytes(params: Any) -> int:
    """Returns the bytes of all parameters, abstract or not."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
