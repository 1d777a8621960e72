"""The layouts of generation: where weights lie, and where activations and the cache follow them.

From Pope et al. 2022, "Efficiently Scaling Transformer Inference" (arXiv:2211.05102), section 3:

    weights_1d         a kernel's heads or mlp columns are split over all devices; the sums of each
                       layer, [B, L, D], are added over all of them
    weights_2d         a kernel's width is split over `data` as well, and so are activations: sums
                       over `data` are [B, L, F / model], those over `model` [B, L, D / data]
    weights_gathered   sequences are split over all devices, which gather each layer's weights

The first two never move a weight. Each phase may have its own layout of activations; the weights
stay where they are stored.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn

from palmscale import axes
from palmscale.partition.rules import TABLES, MeshAxes

Rules = Mapping[str, MeshAxes]

_ALL = (axes.MODEL, axes.DATA)
# The table lies by rows: a device looks up the tokens of its rows, and makes their logits, so that
# neither the table nor logits travel.
_TABLE: dict[str, MeshAxes] = {axes.VOCAB: _ALL, axes.VOCAB_EMBED: None}
STORED: dict[str, dict[str, MeshAxes]] = {
    "weights_1d": {**_TABLE, axes.EMBED: None, axes.HEADS: _ALL, axes.MLP: _ALL, axes.KV: None},
    "weights_2d": {
        **_TABLE,
        axes.EMBED: axes.DATA,
        axes.HEADS: axes.MODEL,
        axes.MLP: axes.MODEL,
        axes.KV: None,
    },
}
GATHERED = "weights_gathered"


def stored_rules(base: Rules, table: str | None = None) -> dict[str, MeshAxes]:
    """Returns the rules by which generation stores weights.

    Args:
        base: of training, or a user's; they stay for axes that the table does not name.
        table: `weights_1d`, `weights_2d` or None: as `base` has them, but the token table by rows.
    """
    return {**base, **(_TABLE if table is None else STORED[table])}


def has_own_axes(rules: Rules) -> bool:
    """Returns whether rules name axes of a user's own module."""
    return not rules.keys() <= TABLES["2d"].keys()


def fitted(rules: Rules, boxed: Any, axis_sizes: Mapping[str, int]) -> dict[str, MeshAxes]:
    """Returns the rules without mesh axes over which parameters do not divide: those stay whole.

    Args:
        rules: logical axis to mesh axes.
        boxed: shapes of parameters with their logical axes.
        axis_sizes: of the mesh.
    """
    sizes: dict[str, int] = {}
    boxes = jax.tree.leaves(boxed, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned))
    for leaf in boxes:
        if isinstance(leaf, nn.Partitioned):
            for name, size in zip(leaf.names, leaf.value.shape, strict=True):
                if name is not None:
                    sizes[name] = math.gcd(size, sizes.get(name, 0))
    return {
        name: dividing(target, sizes[name], axis_sizes) if name in sizes else target
        for name, target in rules.items()
    }


def dividing(target: MeshAxes, size: int, axis_sizes: Mapping[str, int]) -> MeshAxes:
    """Returns the first of the mesh axes, as many as `size` divides over."""
    split = (target,) if isinstance(target, str) else target or ()
    while split and size % math.prod(axis_sizes[axis] for axis in split):
        split = split[:-1]
    return split if len(split) > 1 else split[0] if split else None


def weight_stationary(
    stored: Rules, sequences: int, axis_sizes: Mapping[str, int]
) -> dict[str, MeshAxes]:
    """Returns the rules by which activations meet the weights where these are stored.

    The cache is split over sequences, on as many devices as divide them, and over heads it is not:
    all share one. Query heads are split over the devices that hold the same sequences.

    Args:
        stored: rules of weights, fitted.
        sequences: side by side.
        axis_sizes: of the mesh.
    """
    split = splitting(sequences, axis_sizes)
    # A module with axes of its own may lay them where the width would lie.
    width = None if has_own_axes(stored) else stored[axes.EMBED]
    heads = tuple(axis for axis in _as_tuple(stored[axes.HEADS]) if axis not in split)
    return {
        **stored,
        axes.BATCH: axes.REPLICA if axes.REPLICA in split else None,
        axes.LENGTH: None,
        axes.ACT_LENGTH: None,
        axes.ACT_EMBED: width,
        axes.ACT_INPUT: width,
        axes.ACT_HEADS: stored[axes.HEADS],
        axes.ACT_KV: None,
        axes.ACT_MLP: stored[axes.MLP],
        axes.ACT_VOCAB: stored[axes.VOCAB],
        axes.LOOKUP_VOCAB: stored[axes.VOCAB],
        axes.LOOKUP_EMBED: None,
        axes.CACHE_BATCH: split or None,
        axes.CACHE_HEADS: heads or None,
        axes.HEADS_BATCH: tuple(a for a in split if a not in _as_tuple(stored[axes.HEADS])) or None,
    }


def weights_gathered(
    stored: Rules, sequences: int, axis_sizes: Mapping[str, int]
) -> dict[str, MeshAxes]:
    """Returns the rules by which each device has sequences of its own, and gathers the weights.

    The arguments are those of `weight_stationary`.
    """
    split = splitting(sequences, axis_sizes)
    whole = (
        axes.LENGTH, axes.ACT_LENGTH, axes.ACT_EMBED, axes.ACT_INPUT, axes.ACT_HEADS, axes.ACT_KV,
        axes.ACT_MLP, axes.ACT_VOCAB, axes.LOOKUP_VOCAB, axes.CACHE_HEADS,
    )  # fmt: skip
    return {
        **stored,
        **dict.fromkeys(whole),
        axes.BATCH: split or None,
        axes.CACHE_BATCH: split or None,
        axes.HEADS_BATCH: split or None,
        # The table is turned once; rows for all sequences are looked up by columns.
        axes.LOOKUP_EMBED: _ALL,
    }


def splitting(sequences: int, axis_sizes: Mapping[str, int]) -> tuple[str, ...]:
    """Returns the mesh axes that split so many sequences evenly over the most devices."""
    # In the mesh's order: query heads then move to their sequences in one all-to-all.
    present = [axis for axis in (axes.REPLICA, axes.DATA, axes.MODEL) if axis_sizes[axis] > 1]
    candidates = itertools.chain.from_iterable(
        itertools.combinations(present, count) for count in range(len(present) + 1)
    )

    def devices(split: tuple[str, ...]) -> int:
        return math.prod(axis_sizes[axis] for axis in split)

    return max((one for one in candidates if sequences % devices(one) == 0), key=devices)


def _as_tuple(target: MeshAxes) -> tuple[str, ...]:
    return (target,) if isinstance(target, str) else target or ()
