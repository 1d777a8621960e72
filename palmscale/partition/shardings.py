"""From logical axis names to shardings. Whatever is unknown or ambiguous is an error here."""

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from palmscale.errors import UserError
from palmscale.partition.rules import MeshAxes

Names = Sequence[str | None]


def spec(names: Names, rules: Mapping[str, MeshAxes]) -> PartitionSpec:
    """Returns the mesh axes of each named dim; the name `None` is a dim that is not sharded.

    Raises:
        UserError: a name without a rule, or one mesh axis for two dims. Flax alone would replicate.
    """
    unknown = [name for name in names if name is not None and name not in rules]
    if unknown:
        near = difflib.get_close_matches(unknown[0], rules, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise UserError(
            f"no layout rule for logical axes {unknown} in {tuple(names)}{hint}; known:"
            f" {sorted(rules)}. Add one, for example Layout.overrides={{{unknown[0]!r}: None}}."
        )
    targets = [None if name is None else rules[name] for name in names]
    used = [axis for target in targets for axis in _as_tuple(target)]
    if len(set(used)) < len(used):
        raise UserError(
            f"{tuple(names)} maps to {targets}: one mesh axis would shard two dims; "
            "change the rule of one of them."
        )
    return PartitionSpec(*targets)


def constrain(x: jax.Array, names: Names) -> jax.Array:
    """Returns `x` pinned to where the rules put `names`; itself when no layout is entered.

    Raises:
        RuntimeError: only one of mesh and rules is set (see `palmscale.partition.mesh.layout`).
    """
    rules, mesh = dict(nn.get_logical_axis_rules()), jax.sharding.get_abstract_mesh()
    if bool(rules) == mesh.empty:
        missing = "mesh" if mesh.empty else "rules"
        raise RuntimeError(f"the {missing} of the layout are not set; enter partition.mesh.layout.")
    if not rules:
        return x
    if len(names) != x.ndim:
        raise ValueError(f"{tuple(names)} names {len(names)} dims of an array of shape {x.shape}.")
    return jax.lax.with_sharding_constraint(x, spec(names, rules))


def is_split(name: str) -> bool:
    """Returns whether the layout that is entered splits a logical axis over several devices."""
    rules, mesh = dict(nn.get_logical_axis_rules()), jax.sharding.get_abstract_mesh()
    return bool(rules) and _parts(rules[name], mesh.shape) > 1


def map_shards(
    kernel: Callable[..., jax.Array],
    otherwise: Callable[..., jax.Array],
    *,
    platform: str,
    inputs: Sequence[Names],
    output: Names,
) -> Callable[..., jax.Array]:
    """Returns `kernel`, run by each device on its shards, in a layout of `platform`'s devices.

    Elsewhere returns `otherwise`, a function of the same whole arrays: XLA can split anything over
    devices but a kernel, and a kernel is for one platform. The devices need not exist here.

    Args:
        kernel: of one device's shards; a dim that the rules do not shard is whole in them.
        otherwise: equal to `kernel`.
        platform: `tpu`, `gpu` or `cpu`.
        inputs: the logical axes of each argument's dims.
        output: those of the result's dims.
    """
    rules, mesh = dict(nn.get_logical_axis_rules()), jax.sharding.get_abstract_mesh()
    device = None if mesh.empty else mesh.abstract_device
    if not rules or device is None or device.platform != platform:
        return otherwise
    return jax.shard_map(
        kernel,
        in_specs=tuple(spec(names, rules) for names in inputs),
        out_specs=spec(output, rules),
        check_vma=False,  # a kernel's result says nothing of the mesh axes over which it varies
    )


def logical_axes(boxed: Any) -> Any:
    """Returns the tuple of names of each leaf of a tree with Flax's partitioning boxes.

    A leaf without a box, such as a step counter, has no name for any of its dims.
    """
    return jax.tree.map(
        lambda leaf: leaf.names if _is_box(leaf) else (None,) * leaf.ndim, boxed, is_leaf=_is_box
    )


def unbox(boxed: Any) -> Any:
    """Returns the tree without boxes. Flax's own unbox would also constrain what is in them."""
    return jax.tree.map(lambda leaf: leaf.value if _is_box(leaf) else leaf, boxed, is_leaf=_is_box)


def make_shardings(boxed: Any, mesh: Mesh, rules: Mapping[str, MeshAxes]) -> Any:
    """Returns the NamedSharding of each leaf of a boxed tree of shapes.

    Raises:
        UserError: a dim that does not divide over its mesh axis, named with its parameter.
    """

    def one(path: Any, leaf: Any) -> NamedSharding:
        _, _, dims = _placed(path, leaf, mesh.shape, rules)
        return NamedSharding(mesh, dims)

    return jax.tree_util.tree_map_with_path(one, boxed, is_leaf=_is_box)


def path_name(path: Any) -> str:
    """Returns a tree path as a person writes it: `layers/query`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArrayLayout:
    """One array of the audit: what it is, where it lies and what it costs each device."""

    name: str
    shape: tuple[int, ...]
    names: tuple[str | None, ...]
    mesh_axes: tuple[MeshAxes, ...]
    bytes: int
    bytes_per_device: int
    copies: int

    @property
    def is_replicated(self) -> bool:
        """True when each of several devices holds the whole array."""
        return self.copies > 1 and self.bytes == self.bytes_per_device


def audit(
    boxed: Any, axis_sizes: Mapping[str, int], rules: Mapping[str, MeshAxes]
) -> list[ArrayLayout]:
    """Returns the layout of every array of a boxed tree of shapes, in tree order.

    Args:
        boxed: of shapes with logical axes.
        axis_sizes: of the mesh, by axis; its devices need not exist.
        rules: logical axis to mesh axis.

    Raises:
        UserError: as `make_shardings`.
    """
    num_devices = math.prod(axis_sizes.values())
    rows = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(boxed, is_leaf=_is_box):
        array, names, dims = _placed(path, leaf, axis_sizes, rules)
        whole = math.prod(array.shape) * array.dtype.itemsize
        shards = math.prod(_parts(target, axis_sizes) for target in dims)
        rows.append(
            ArrayLayout(
                name=path_name(path),
                shape=array.shape,
                names=tuple(names),
                mesh_axes=tuple(dims),
                bytes=whole,
                bytes_per_device=whole // shards,
                copies=num_devices // shards,
            )
        )
    return rows


def _placed(
    path: Any, leaf: Any, axis_sizes: Mapping[str, int], rules: Mapping[str, MeshAxes]
) -> tuple[Any, Names, PartitionSpec]:
    """Returns (array, its names, its mesh axes), or raises UserError where they do not fit."""
    array = leaf.value if _is_box(leaf) else leaf
    names = leaf.names if _is_box(leaf) else (None,) * array.ndim
    try:
        dims = spec(names, rules)
    except UserError as error:
        raise UserError(f"parameter {_name(path)}: {error}") from None
    for size, name, target in zip(array.shape, names, dims, strict=True):
        parts = _parts(target, axis_sizes)
        if size % parts:
            raise UserError(
                f"parameter {_name(path)} has {size} along {name!r}, which does not divide "
                f"over {parts} devices of mesh axis {target!r}; choose a multiple of {parts}, "
                "or another mesh."
            )
    return array, names, dims


def _name(path: Any) -> str:
    return path_name(path).removeprefix("params/")  # of a whole state


def _parts(target: MeshAxes, axis_sizes: Mapping[str, int]) -> int:
    return math.prod(axis_sizes[axis] for axis in _as_tuple(target))


def _is_box(leaf: Any) -> bool:
    return isinstance(leaf, nn.Partitioned)


def _as_tuple(target: MeshAxes) -> tuple[str, ...]:
    return (target,) if isinstance(target, str) else target or ()
