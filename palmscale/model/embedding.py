"""The embedding lookup, laid out so that table rows move to the tokens, not tokens to the rows."""

import functools

import jax
import jax.numpy as jnp

from palmscale import axes
from palmscale.partition.shardings import constrain

# In training, sharded like the residual stream's width: each device looks up its own tokens in its
# own columns.
_COLUMNS = (axes.LOOKUP_VOCAB, axes.LOOKUP_EMBED)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def lookup(table_VD: jax.Array, tokens_BL: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Returns x_BLD, the tokens' rows as `dtype`; the table's gradient accumulates in float32."""
    return constrain(table_VD.astype(dtype), _COLUMNS)[tokens_BL]


def logits_table(table_VD: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Returns the table as `dtype`; each device has all columns of its part of the vocabulary."""
    # Going through columns makes this a single all-to-all. Directly from the stored sharding, XLA
    # may gather the whole table.
    columns_VD = constrain(table_VD.astype(dtype), _COLUMNS)
    return constrain(columns_VD, (axes.ACT_VOCAB, None))


def _forward(table_VD, tokens_BL, dtype):
    # An empty slice that carries the table's shape and dtype.
    return lookup(table_VD, tokens_BL, dtype), (tokens_BL, table_VD[:, :0])


def _backward(dtype, saved, dx_BLD):
    tokens_BL, rows_V0 = saved
    zeros_VD = jnp.zeros((rows_V0.shape[0], dx_BLD.shape[-1]), jnp.float32)
    dtable_VD = zeros_VD.at[tokens_BL].add(dx_BLD.astype(jnp.float32))
    return constrain(dtable_VD, _COLUMNS).astype(rows_V0.dtype), None


lookup.defvjp(_forward, _backward)
