"""The compiled programs of an engine: the prompt's chunks into a cache of their own, then steps.

Each slot of an engine is one sequence of a batch. A prompt is computed in a staging cache of one
sequence, chunk by chunk, and then inserted into its slot; its last token is fed by the first step.
So a sequence's tokens are computed by the same programs whoever else is in the batch.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from palmscale import axes
from palmscale.infer.cache import empty_cache
from palmscale.infer.draw import Drawn, Rows, sample
from palmscale.model import interface
from palmscale.model.attention import Cache
from palmscale.model.interface import DECODING
from palmscale.partition.shardings import constrain, is_split


@struct.dataclass
class Slots:
    """The sequences of an engine on its devices: what each has cached, and its next token's input.

    Attributes:
        cache: of all slots; `length` is [B].
        token_B: the last token of each, which is not in the cache yet.
        rows: how each slot's tokens are drawn.
    """

    cache: Cache
    token_B: jax.Array
    rows: Rows


def extend(
    model: nn.Module, variables: Any, tokens_BL: jax.Array, cache: Cache
) -> tuple[jax.Array, Cache]:
    """Returns x_BLD of more tokens of each sequence, and the cache, whose `length` is [B]."""
    if interface.cache_spec(model).ragged:
        return model.apply(variables, tokens_BL, cache, method="extend")

    def one(tokens_L, k_NSK, v_NSK, length):
        alone = Cache(k_NSK[:, None], v_NSK[:, None], length)
        x_BLD, alone = model.apply(variables, tokens_L[None], alone, method="extend")
        return x_BLD[0], alone.k_NBSK[:, 0], alone.v_NBSK[:, 0], alone.length

    mapped = jax.vmap(one, in_axes=(0, 1, 1, 0), out_axes=(0, 1, 1, 0))
    x_BLD, *extended = mapped(tokens_BL, cache.k_NBSK, cache.v_NBSK, cache.length)
    return x_BLD, Cache(*extended)


# Likeliest ids that a program returns; there is one for each.
_TOPS = (0, 1, 5, 20, 100)


def returned_top(top: int, size: int) -> int:
    """Returns how many likeliest ids the program returns that serves `top` of a vocabulary."""
    return min(next(t for t in _TOPS if t >= top), size)


def most_top(size: int) -> int:
    """Returns the most likeliest ids that may be asked for, of a vocabulary's `size`."""
    return min(_TOPS[-1], size)


def layers_apart(model: nn.Module, variables: Any) -> bool:
    """Returns whether the layers' weights are arrays of their own; then so are their caches."""
    weights = interface.decoding_weights(model)
    if weights is None or DECODING not in variables:
        return False
    return isinstance(variables[DECODING][weights.stacked], tuple)


def logits_size(model: nn.Module, variables: Any) -> int:
    """Returns V, the ids for which the model has logits."""
    spec, apart = interface.cache_spec(model), layers_apart(model, variables)

    def logits(variables: Any) -> jax.Array:
        cache = empty_cache(spec, batch=1, positions=2, apart=apart, staging=True)
        x_BLD, _ = extend(model, variables, jnp.zeros((1, 1), jnp.int32), cache)
        return model.apply(variables, x_BLD, method="unembed")

    return jax.eval_shape(logits, variables).shape[-1]


@functools.partial(jax.jit, static_argnames=("model", "top"), donate_argnames="staging")
def prefill(
    model: nn.Module,
    variables: Any,
    staging: Cache,
    tokens_1L: jax.Array,
    targets_L: jax.Array | None,
    *,
    top: int = 0,
) -> tuple[Cache, Any]:
    """Returns the staging cache with a chunk of a prompt, and the scores of the tokens after each.

    The caller sets the staging cache's length to the tokens that are really there: a chunk may end
    in padding, which the next chunk overwrites.

    Args:
        model: offers `extend` and `unembed`.
        variables: of the model.
        staging: the cache of one sequence; donated.
        tokens_1L: the chunk.
        targets_L: the token after each of the chunk, to be scored; None: scores nothing.
        top: likeliest ids to return with each score.

    Returns:
        The cache, and (log_probability_L, top_ids_LK, top_log_probabilities_LK) or None.
    """
    x_BLD, staging = extend(model, variables, tokens_1L, staging)
    if targets_L is None:
        return staging, None
    logits_LV = model.apply(variables, x_BLD, method="unembed")[0].astype(jnp.float32)
    log_p_LV = jax.nn.log_softmax(logits_LV)
    chosen_L = jnp.take_along_axis(log_p_LV, targets_L[:, None], axis=-1)[:, 0]
    top_p_LK, top_ids_LK = jax.lax.top_k(log_p_LV, top)
    return staging, jax.tree.map(_whole, (chosen_L, top_ids_LK, top_p_LK))


@functools.partial(jax.jit, static_argnames=("model", "filters", "top"), donate_argnames="slots")
def decode(
    model: nn.Module,
    variables: Any,
    slots: Slots,
    active_B: jax.Array,
    *,
    filters: bool,
    top: int,
) -> tuple[Slots, Drawn]:
    """Returns the slots after one more token of the active ones, and what was drawn.

    Args:
        model: offers `extend` and `unembed`.
        variables: of the model.
        slots: donated.
        active_B: which slots take part; the others keep their length and token.
        filters: whether any row has top_k, top_p or min_p.
        top: likeliest ids to return with each token.
    """
    x_BLD, cache = extend(model, variables, slots.token_B[:, None], slots.cache)
    length_B = jnp.where(active_B, cache.length, slots.cache.length)
    logits_BV = model.apply(variables, x_BLD, method="unembed")[:, 0]
    drawn = sample(logits_BV, slots.rows, length_B, filters=filters, top=top)
    token_B = jnp.where(active_B, drawn.token_B, slots.token_B)
    slots = Slots(
        cache=cache.replace(length=length_B),
        token_B=token_B,
        rows=slots.rows.after(token_B, active_B),
    )
    return slots, jax.tree.map(_whole, drawn)


@functools.partial(jax.jit, static_argnames="model", donate_argnames="slots")
def verify(
    model: nn.Module, variables: Any, slots: Slots, active_B: jax.Array, draft_BL: jax.Array
) -> tuple[Slots, jax.Array, jax.Array]:
    """Returns the slots after a step of greedy tokens that a draft foresaw.

    Args:
        model: offers `extend` and `unembed`.
        variables: of the model.
        slots: donated.
        active_B: which slots take part.
        draft_BL: the tokens that may follow `slots.token_B`; -1 foresees nothing.

    Returns:
        The slots, greedy_BL of L + 1 tokens, and how many of them count, [B]: one more than the
        draft foresaw.
    """
    tokens_BL = jnp.concatenate([slots.token_B[:, None], jnp.maximum(draft_BL, 0)], axis=1)
    x_BLD, cache = extend(model, variables, tokens_BL, slots.cache)
    logits_BLV = model.apply(variables, x_BLD, method="unembed")
    greedy_BL = jnp.argmax(logits_BLV, axis=-1).astype(jnp.int32)
    foreseen_BL = jnp.cumprod(greedy_BL[:, :-1] == draft_BL, axis=1)
    count_B = jnp.where(active_B, 1 + foreseen_BL.sum(axis=1), 0)
    last_B1 = jnp.take_along_axis(greedy_BL, jnp.maximum(count_B - 1, 0)[:, None], axis=1)
    slots = slots.replace(
        cache=cache.replace(length=slots.cache.length + count_B),
        token_B=jnp.where(active_B, last_B1[:, 0], slots.token_B),
    )
    return slots, _whole(greedy_BL), _whole(count_B)


@functools.partial(jax.jit, donate_argnames="slots")
def insert(
    slots: Slots, staging: Cache, slot: jax.Array, length: jax.Array, token: jax.Array
) -> Slots:
    """Returns the slots, one of which continues a staged prompt of a length with its last token."""
    cache = slots.cache

    def put(all_: jax.Array, one: jax.Array, axis: int) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(all_, one, slot, axis)

    k, v = _each_layer(put, cache, staging)
    cache = Cache(k, v, cache.length.at[slot].set(length))
    return slots.replace(cache=cache, token_B=slots.token_B.at[slot].set(token))


@jax.jit
def take(cache: Cache, slot: jax.Array) -> Cache:
    """Returns a staging cache with what a slot has cached."""

    def get(all_: jax.Array, axis: int) -> jax.Array:
        if not is_split(axes.CACHE_BATCH):
            return jax.lax.dynamic_slice_in_dim(all_, slot, 1, axis)
        # A slice of a dim that lies over devices would gather all of it; a sum moves one slot.
        here = jnp.expand_dims(jnp.arange(all_.shape[axis]) == slot, range(1, all_.ndim - axis))
        return jnp.sum(jnp.where(here, all_, 0), axis, keepdims=True, dtype=all_.dtype)

    k, v = _each_layer(get, cache)
    return Cache(k, v, jnp.zeros(1, jnp.int32))


def _each_layer(change: Any, *caches: Cache) -> tuple[Any, Any]:
    """Returns keys and values changed; the batch is dim 1 of stacked layers and 0 of others."""
    stacked = not isinstance(caches[0].k_NBSK, tuple)
    change = functools.partial(change, **{"axis": 1 if stacked else 0})
    return (
        jax.tree.map(change, *(cache.k_NBSK for cache in caches)),
        jax.tree.map(change, *(cache.v_NBSK for cache in caches)),
    )


def _whole(x: jax.Array) -> jax.Array:
    """Returns `x` on every device: each process of a job reads it."""
    return constrain(x, (None,) * x.ndim)
