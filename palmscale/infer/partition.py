"""How a model lies on the devices that generate, and where each phase puts activations."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn

from palmscale import axes
from palmscale.infer.choose import Choice, choose_layout, choose_storage
from palmscale.infer.layouts import fitted, has_own_axes, stored_rules, weight_stationary
from palmscale.model import interface
from palmscale.model.interface import Dimensions
from palmscale.partition.layout import DeviceLayout
from palmscale.partition.mesh import MeshSpec, make_mesh
from palmscale.partition.rules import TABLES, MeshAxes
from palmscale.partition.shardings import logical_axes, make_shardings, unbox


def generation_layout(
    model: nn.Module,
    boxed_params: Any,
    *,
    trained_mesh: Mapping[str, int],
    trained_rules: Mapping[str, MeshAxes],
    devices: Sequence[jax.Device] | None = None,
) -> DeviceLayout:
    """Returns the layout of generation over all devices, with the rules of one sequence.

    A module with axes of its own lies as in training, on its mesh where the number of devices
    allows it: what divided over it then divides over it now.

    Args:
        model: the module that was trained.
        boxed_params: shapes of its parameters with their logical axes.
        trained_mesh: size of each mesh axis in training.
        trained_rules: logical axis to mesh axis in training.
        devices: to use, which need not exist; None: all that there are.
    """
    devices = jax.devices() if devices is None else devices
    axis_sizes, rules = generation_storage(
        model,
        boxed_params,
        trained_mesh=trained_mesh,
        trained_rules=trained_rules,
        num_devices=len(devices),
        # Hosts of other devices count as slices too, but they share a model.
        slices=len({getattr(d, "slice_index", 0) for d in devices if d.platform == "tpu"}) or 1,
    )
    spec = MeshSpec(
        data=axis_sizes[axes.DATA], model=axis_sizes[axes.MODEL], replicas=axis_sizes[axes.REPLICA]
    )
    return DeviceLayout(mesh=make_mesh(spec, devices), rules=rules)


def generation_storage(
    model: nn.Module,
    boxed_params: Any,
    *,
    trained_mesh: Mapping[str, int],
    trained_rules: Mapping[str, MeshAxes],
    num_devices: int,
    slices: int = 1,
) -> tuple[dict[str, int], dict[str, MeshAxes]]:
    """Returns (size of each mesh axis, rules) of `generation_layout`, without the devices.

    Args:
        slices: of TPUs, each of which holds all weights.
    """
    dimensions = known_dimensions(model, boxed_params)
    if dimensions is None:
        tensor = math.gcd(num_devices // slices, trained_mesh.get(axes.MODEL, 1))
        data = math.gcd(num_devices // slices // tensor, trained_mesh.get(axes.DATA, 1))
        replicas = num_devices // (data * tensor)
        table, axis_sizes = None, {axes.REPLICA: replicas, axes.DATA: data, axes.MODEL: tensor}
    else:
        table, axis_sizes = choose_storage(dimensions, num_devices // slices)
        axis_sizes = {**axis_sizes, axes.REPLICA: slices}
    return axis_sizes, generation_rules(
        stored_rules(trained_rules, table), boxed_params, axis_sizes
    )


def generation_rules(
    rules: Mapping[str, MeshAxes], boxed_params: Any, axis_sizes: Mapping[str, int]
) -> dict[str, MeshAxes]:
    """Returns rules of generation that store weights by `rules`, where they divide."""
    return weight_stationary(fitted(rules, boxed_params, axis_sizes), 1, axis_sizes)


def phase(
    model: nn.Module,
    layout: DeviceLayout,
    *,
    sequences: int,
    new_tokens: int,
    weight_bytes: float = 2.0,
) -> tuple[DeviceLayout, Choice]:
    """Returns the layout in which a program runs, and why; weights lie as in `layout`.

    Args:
        model: the module.
        layout: of generation.
        sequences: side by side.
        new_tokens: of each sequence; 1 is a decode step.
        weight_bytes: of a parameter.
    """
    choice = choose_layout(
        layout.rules,
        layout.mesh.shape,
        dimensions=None if has_own_axes(layout.rules) else _dimensions(model),
        sequences=sequences,
        new_tokens=new_tokens,
        weight_bytes=weight_bytes,
    )
    return DeviceLayout(mesh=layout.mesh, rules=choice.rules), choice


def entered(layout: DeviceLayout | None) -> contextlib.AbstractContextManager[None]:
    """Enters a layout, if there is one."""
    return contextlib.nullcontext() if layout is None else layout.entered()


def known_dimensions(model: nn.Module, boxed_params: Any) -> Dimensions | None:
    """Returns the sizes of a model whose layers are PaLM's; None for one with axes of its own."""
    names = jax.tree.leaves(logical_axes(boxed_params))
    return _dimensions(model) if set(names) - {None} <= set(TABLES["2d"]) else None


def _dimensions(model: nn.Module) -> Dimensions | None:
    return interface.dimensions(model) if interface.has_dimensions(model) else None


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
