"""The one place that says where each logical axis lies: tables from logical to mesh axes.

In the notation A[I_X] (dim I is split over mesh axis X), a gate kernel is gate[D_data, F_model] in
the `2d` table: fully sharded over both, gathered over `data` when used, never over `model`.
"""

from collections.abc import Mapping

from palmscale import axes
from palmscale.errors import UserError

MeshAxes = str | tuple[str, ...] | None

_REPLICATED: dict[str, MeshAxes] = {
    axes.BATCH: (axes.REPLICA, axes.DATA),
    **dict.fromkeys(
        (
            axes.LENGTH,
            axes.ACT_LENGTH,
            axes.ACT_EMBED,
            axes.ACT_HEADS,
            axes.ACT_KV,
            axes.ACT_MLP,
            axes.ACT_VOCAB,
            axes.ACT_INPUT,
            axes.LOOKUP_VOCAB,
            axes.LOOKUP_EMBED,
            axes.CACHE_BATCH,
            axes.CACHE_HEADS,
            axes.HEADS_BATCH,
            axes.EMBED,
            axes.HEADS,
            axes.KV,
            axes.MLP,
            axes.LAYERS,
            axes.VOCAB,
            axes.VOCAB_EMBED,
            axes.NORM,
            axes.CENTERED_NORM,
        )
    ),
}
# Fully sharded data parallelism (ZeRO-3): each weight's width is split over `data`.
_FULLY_SHARDED = {**_REPLICATED, axes.EMBED: axes.DATA, axes.VOCAB_EMBED: axes.DATA}
# Tensor parallelism (Megatron-LM): heads, mlp and vocabulary are split over `model`.
_TENSOR = {
    **_REPLICATED,
    axes.HEADS: axes.MODEL,
    axes.MLP: axes.MODEL,
    axes.VOCAB: axes.MODEL,
    axes.ACT_HEADS: axes.MODEL,
    axes.ACT_MLP: axes.MODEL,
    axes.ACT_VOCAB: axes.MODEL,
    axes.CACHE_HEADS: axes.MODEL,
}
# Both, as PaLM was trained (section 4): weights are split over data x model, and so is the one
# activation that a rematerialized layer saves, its input: along its width, or with the overrides
# act_length -> model and act_embed -> None along the sequence.
_2D = {
    **_TENSOR,
    axes.EMBED: axes.DATA,
    axes.VOCAB_EMBED: axes.DATA,
    axes.ACT_EMBED: axes.MODEL,
    axes.LOOKUP_EMBED: axes.MODEL,
}

TABLES: dict[str, dict[str, MeshAxes]] = {
    "replicated": _REPLICATED,
    "fully_sharded": _FULLY_SHARDED,
    "tensor": _TENSOR,
    "2d": _2D,
}


def layout_rules(
    table: str, overrides: Mapping[str, MeshAxes] | None = None
) -> dict[str, MeshAxes]:
    """Returns the rules of a named table, some of them replaced.

    Args:
        table: `replicated`, `fully_sharded`, `tensor` or `2d`.
        overrides: logical axis to mesh axis (or None). A new logical axis, of a user's own module,
            is welcome here.

    Raises:
        UserError: an unknown table or mesh axis.
    """
    if table not in TABLES:
        raise UserError(f"unknown layout table {table!r}; choose one of {sorted(TABLES)}.")
    overrides = overrides or {}
    rules = {**TABLES[table], **overrides}
    # Each device looks up its own tokens in the columns that it has of the residual stream.
    if axes.ACT_EMBED in overrides:
        rules[axes.LOOKUP_EMBED] = overrides.get(axes.LOOKUP_EMBED, rules[axes.ACT_EMBED])
    mesh_axes = (axes.REPLICA, axes.DATA, axes.MODEL)
    for name, target in rules.items():
        for axis in (target,) if isinstance(target, str) else target or ():
            if axis not in mesh_axes:
                raise UserError(
                    f"layout rule {name!r} -> {target!r} names the mesh axis {axis!r}, which does "
                    f"not exist; mesh axes are {mesh_axes}."
                )
    return rules
