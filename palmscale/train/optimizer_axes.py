"""The logical axes of an optimizer's state, whatever its classes: those of the parameters in it."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import linen as nn

Names = tuple[str | None, ...]


def boxed_like(boxed_params: Any, state: Any) -> Any:
    """Returns the shapes of an optimizer's state, boxed with logical axes, to be sharded by them.

    An array whose path ends with that of a parameter, such as `0/mu/layers/query`, gets the names
    of that parameter's dims that it has: all of them for a moment, some for factored statistics.
    Any other gets the names of the parameters of its shape. What is left is replicated.

    Args:
        boxed_params: shapes of the parameters, boxed with logical axes.
        state: shapes of what the optimizer's `init` returns for them.
    """
    params = {
        _keys(path): box
        for path, box in jax.tree_util.tree_leaves_with_path(boxed_params, is_leaf=_is_box)
    }
    by_shape: dict[tuple[int, ...], set[Names]] = {}
    for box in params.values():
        by_shape.setdefault(box.value.shape, set()).add(tuple(box.names))

    def boxed(path: Any, leaf: Any) -> nn.LogicallyPartitioned:
        keys = _keys(path)
        ends = (keys[start:] for start in range(len(keys)))  # the longest first
        box = next((params[end] for end in ends if end in params), None)
        alike = by_shape.get(leaf.shape, set())
        if box is not None:
            names = _names_of_dims(leaf.shape, box.value.shape, box.names)
        else:
            names = next(iter(alike)) if len(alike) == 1 else (None,) * len(leaf.shape)
        return nn.LogicallyPartitioned(leaf, names)

    return jax.tree_util.tree_map_with_path(boxed, state)


def _names_of_dims(shape: Sequence[int], of: Sequence[int], names: Sequence[str | None]) -> Names:
    """Returns a name for each dim of `shape`, where the dims of `of` have `names`.

    `shape` is `of`, lacks some of its dims, or has more before them, such as a history of steps.
    """
    more = len(shape) - len(of)
    if more >= 0:
        return (None,) * more + tuple(names) if tuple(shape[more:]) == tuple(of) else _none(shape)
    rest = iter(zip(of, names, strict=True))
    found = [next((name for size, name in rest if size == wanted), _ABSENT) for wanted in shape]
    return _none(shape) if _ABSENT in found else tuple(found)


_ABSENT = object()


def _none(shape: Sequence[int]) -> Names:
    return (None,) * len(shape)


def _keys(path: Any) -> tuple[str, ...]:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def _is_box(leaf: Any) -> bool:
    return isinstance(leaf, nn.Partitioned)
