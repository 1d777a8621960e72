"""Chooses the layout of generation by arithmetic: what each device holds, and what travels.

An all-reduce moves an array twice, an all-gather once. The sums are those of Pope et al. 2022
(arXiv:2211.05102, section 3.2), for gated mlp layers.
"""

import dataclasses
import math
from collections.abc import Mapping

from palmscale import axes
from palmscale.infer.layouts import (
    GATHERED,
    STORED,
    Rules,
    dividing,
    splitting,
    weight_stationary,
    weights_gathered,
)
from palmscale.model.interface import Dimensions
from palmscale.observe.units import size
from palmscale.partition.rules import MeshAxes

_ACTIVATION_BYTES = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """The layout of one phase.

    Attributes:
        table: `weights_1d`, `weights_2d` or `weights_gathered`.
        rules: logical axis to mesh axes, of weights, activations and the cache.
        why: the reason, in a line.
    """

    table: str
    rules: dict[str, MeshAxes]
    why: str


def choose_storage(dimensions: Dimensions, num_devices: int) -> tuple[str, dict[str, int]]:
    """Returns (table, mesh axis sizes) by which weights are stored on devices of one slice.

    Each device holds the least that is possible, since each step reads all that it holds; among
    the tables and meshes that allow it, sums over devices move the fewest bytes.

    Args:
        dimensions: of the model.
        num_devices: of one replica.
    """

    def cost(candidate: tuple[str, dict[str, int]]) -> tuple[float, float]:
        table, axis_sizes = candidate
        rules = {
            name: dividing(STORED[table][name], length, axis_sizes)
            for name, length in (
                (axes.EMBED, dimensions.width),
                (axes.HEADS, dimensions.heads),
                (axes.MLP, dimensions.mlp),
            )
        }
        return (
            _layer_parameters(dimensions, rules, axis_sizes),
            _summed(dimensions, rules, axis_sizes),
        )

    meshes = [
        {axes.REPLICA: 1, axes.DATA: num_devices // model, axes.MODEL: model}
        for model in range(num_devices, 0, -1)
        if num_devices % model == 0
    ]
    return min(((table, mesh) for table in STORED for mesh in meshes), key=cost)


def choose_layout(
    stored: Rules,
    axis_sizes: Mapping[str, int],
    *,
    dimensions: Dimensions | None,
    sequences: int,
    new_tokens: int,
    weight_bytes: float = 2.0,
) -> Choice:
    """Returns the layout of a phase: of decoding, or of the prefill of so many tokens.

    Weights are gathered only where that moves fewer bytes than sums of activations do; they stay
    stored as they are in every phase.

    Args:
        stored: rules of weights, fitted to the mesh.
        axis_sizes: of the mesh.
        dimensions: of the model; None: unknown, and its weights are not gathered.
        sequences: side by side.
        new_tokens: of each sequence; 1 is a decode step.
        weight_bytes: of a parameter.
    """
    table = "weights_2d" if stored[axes.EMBED] else "weights_1d"
    rules = weight_stationary(stored, sequences, axis_sizes)
    devices = math.prod(axis_sizes.values())
    if devices == 1:
        return Choice(table=table, rules=rules, why="there is one device")
    over = math.prod(axis_sizes[axis] for axis in splitting(sequences, axis_sizes))
    cache = f"the cache of {sequences:,} sequence(s) is split over {over:,} of {devices:,} devices"
    if dimensions is None:
        return Choice(table=table, rules=rules, why=f"the module's sizes are unknown; {cache}")
    held = _layer_parameters(dimensions, stored, axis_sizes)
    gathered = weight_bytes * (_layer_parameters(dimensions, {}, axis_sizes) - held)
    tokens = sequences * new_tokens / axis_sizes[axes.REPLICA]
    summed = _ACTIVATION_BYTES * tokens * _summed(dimensions, stored, axis_sizes)
    if over == devices and gathered < summed:
        table, rules = GATHERED, weights_gathered(stored, sequences, axis_sizes)
    why = f"a layer's sums move {size(summed)} a device, gathering its weights {size(gathered)}"
    return Choice(table=table, rules=rules, why=f"{why}; {cache}")


def _layer_parameters(dimensions: Dimensions, rules: Rules, axis_sizes: Mapping[str, int]) -> float:
    """Returns the parameters that a device holds of a layer; keys and values are negligible."""
    width, heads, mlp = (
        _parts(rules.get(n), axis_sizes) for n in (axes.EMBED, axes.HEADS, axes.MLP)
    )
    attention = 2 * dimensions.heads * dimensions.head_dim / heads
    return dimensions.width / width * (attention + 3 * dimensions.mlp / mlp)


def _summed(dimensions: Dimensions, rules: Rules, axis_sizes: Mapping[str, int]) -> float:
    """Returns how many elements a token's sums of one layer move, at each device."""
    width, heads, mlp = (_parts(rules[n], axis_sizes) for n in (axes.EMBED, axes.HEADS, axes.MLP))
    inside = 2 * dimensions.mlp / mlp + dimensions.heads * dimensions.head_dim / heads
    over_width = inside if width > 1 else 0.0
    over_columns = dimensions.width / width if max(heads, mlp) > 1 else 0.0
    return 2 * (over_width + over_columns)


def _parts(target: MeshAxes, axis_sizes: Mapping[str, int]) -> int:
    split = (target,) if isinstance(target, str) else target or ()
    return math.prod(axis_sizes[axis] for axis in split)
