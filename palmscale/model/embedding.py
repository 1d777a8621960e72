"""The embedding lookup, laid out so that table rows move to the tokens, not tokens to the rows."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from palmscale import axes
from palmscale.model.attention import dense
from palmscale.partition.shardings import constrain

# Sharded like the residual stream's width: each device looks up its own tokens in its own columns.
_COLUMNS = (None, axes.ACT_EMBED)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def lookup(table_VD: Any, tokens_BL: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Returns x_BLD, the tokens' rows as `dtype`; the table's gradient accumulates in float32."""
    columns_VD = _pinned(table_VD.astype(dtype), _COLUMNS)
    return dense(jax.tree.map(lambda part: part[tokens_BL], columns_VD), dtype)


def logits_table(table_VD: Any, dtype: jax.typing.DTypeLike) -> Any:
    """Returns the table as `dtype`; each device has all columns of its part of the vocabulary.

    A quantized table stays quantized.
    """
    # Going through columns makes this a single all-to-all. Directly from the stored sharding, XLA
    # may gather the whole table.
    columns_VD = _pinned(table_VD.astype(dtype), _COLUMNS)
    return _pinned(columns_VD, (axes.ACT_VOCAB, None))


def _pinned(table_VD: Any, names: Sequence[str | None]) -> Any:
    """Returns the table pinned to where the rules put `names`; a quantized one with its scales."""

    def pin(part: jax.Array) -> jax.Array:  # the table, or its values [V, D] or scales [V, 1]
        return constrain(
            part, [name if size > 1 else None for name, size in zip(names, part.shape)]
        )

    return jax.tree.map(pin, table_VD)


def _forward(table_VD, tokens_BL, dtype):
    # An empty slice that carries the table's shape and dtype.
    return lookup(table_VD, tokens_BL, dtype), (tokens_BL, table_VD[:, :0])


def _backward(dtype, saved, dx_BLD):
    tokens_BL, rows_V0 = saved
    zeros_VD = jnp.zeros((rows_V0.shape[0], dx_BLD.shape[-1]), jnp.float32)
    dtable_VD = zeros_VD.at[tokens_BL].add(dx_BLD.astype(jnp.float32))
    return constrain(dtable_VD, _COLUMNS).astype(rows_V0.dtype), None


lookup.defvjp(_forward, _backward)
