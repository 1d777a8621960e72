"""Which parameters train: gradients and optimizer state exist for these alone.

All others are constants of the step: they pass through it bit for bit.
"""

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

import jax
from flax import linen as nn

from palmscale.errors import UserError
from palmscale.trees import named_leaves, nested


@dataclasses.dataclass(frozen=True)
class Trainable:
    """The choice of a model's parameters that train.

    Attributes:
        paths: of those that train; None: all.
    """

    paths: frozenset[str] | None = None

    def part(self, tree: Any) -> Any:
        """Returns the leaves that train, in nested dicts; the tree itself if all do."""
        if self.paths is None:
            return tree
        leaves = named_leaves(tree, is_leaf=_is_box)
        return nested({path: leaf for path, leaf in leaves.items() if path in self.paths})

    def joined(self, part: Any, whole: Any) -> Any:
        """Returns `whole` with the leaves of `part`, which is like `self.part(whole)`."""
        if self.paths is None:
            return part
        old, new = named_leaves(whole), named_leaves(part)
        return jax.tree.unflatten(jax.tree.structure(whole), [*(old | new).values()])


def trainable(patterns: Iterable[str], paths: Iterable[str]) -> Trainable:
    """Returns the parameters that patterns choose; all without a pattern.

    In a pattern, each `*` matches any text: `layers/*`, `final_norm`.

    Args:
        patterns: of paths.
        paths: of all parameters.

    Raises:
        UserError: a pattern matches no parameter.
    """
    patterns, paths = tuple(patterns), tuple(paths)
    if not patterns:
        return Trainable()
    chosen: set[str] = set()
    for pattern in patterns:
        regex = re.compile(".*".join(re.escape(part) for part in pattern.split("*")))
        found = [path for path in paths if regex.fullmatch(path)]
        if not found:
            raise UserError(
                f"Run.trainable has {pattern!r}, which matches no parameter; the parameters are"
                f" {', '.join(paths)}."
            )
        chosen.update(found)
    return Trainable(frozenset(chosen))


def _is_box(leaf: Any) -> bool:
    return isinstance(leaf, nn.Partitioned)
