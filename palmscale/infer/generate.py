"""Generation: the prompt in one pass, then a token at a time, from an explicit, growing cache."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from palmscale import axes
from palmscale.errors import UserError
from palmscale.infer.cache import empty_cache, grown
from palmscale.infer.sampling import LEAST, Sampling
from palmscale.model import interface
from palmscale.model.attention import MASKED_LOGIT, Cache
from palmscale.partition.shardings import constrain
from palmscale.seeds import check_seed

_FIRST_SLOTS = 128


def generate(
    *,
    model: nn.Module,
    params: Any,
    prompt: np.ndarray,
    sampling: Sampling,
    seed: int,
    num_samples: int = 1,
    max_tokens: int,
) -> Iterator[np.ndarray]:
    """Yields the next token of each sample, int32 [num_samples], `max_tokens` times.

    Args:
        model: offers `extend` and `unembed`, as PaLM does.
        params: of the model, on the devices that generate.
        prompt: int32 [L], L at least 1: begin with the bos id.
        sampling: how tokens are drawn.
        seed: the same seed gives the same tokens, however the cache grew; samples differ.
        num_samples: continuations drawn side by side.
        max_tokens: tokens to draw for each.

    Raises:
        UserError: an empty prompt, a seed out of range, or a model that cannot generate.
    """
    spec = interface.cache_spec(model)
    if len(prompt) < 1:
        raise UserError("the prompt has no token; begin it with the vocabulary's bos id.")
    check_seed("seed", seed)
    key = jax.random.key(seed)
    tokens_BL = jnp.broadcast_to(jnp.asarray(prompt, jnp.int32), (num_samples, len(prompt)))
    slots = _FIRST_SLOTS
    while slots <= len(prompt):
        slots *= 2
    cache = empty_cache(
        layers=spec.layers,
        batch=num_samples,
        slots=slots,
        head_dim=spec.head_dim,
        dtype=spec.dtype,
    )
    length = 0
    for position in range(max_tokens):
        length += tokens_BL.shape[1]
        if length > slots:
            # Doubling: one program for each power of two, and each key is copied twice at most.
            slots *= 2
            cache = grown(cache, slots)
        token_B, cache = next_token(
            model, sampling, params, tokens_BL, cache, jax.random.fold_in(key, position)
        )
        yield np.asarray(token_B)
        tokens_BL = token_B[:, None]


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(4,))
def next_token(
    model: nn.Module,
    sampling: Sampling,
    params: Any,
    tokens_BL: jax.Array,
    cache: Cache,
    key: jax.Array,
) -> tuple[jax.Array, Cache]:
    """Returns the token after `tokens_BL`, int32 [B], and the cache with them in it.

    Compiled; it donates the cache. With a prompt it is the prefill, with one token a decode step.
    """
    variables = {"params": params}
    x_BLD, cache = model.apply(variables, tokens_BL, cache, method="extend")
    logits_BLV = model.apply(variables, x_BLD[:, -1:], method="unembed")
    # On every device: each process of a job reads the token.
    return constrain(_sample(logits_BLV[:, 0], key, sampling), (axes.BATCH,)), cache


def _sample(logits_BV: jax.Array, key: jax.Array, sampling: Sampling) -> jax.Array:
    """Returns one token id a sequence, int32 [B]; a function of the logits and the key alone.

    A token that the model has masked, such as a padding id, is drawn at no temperature.
    """
    if sampling.temperature < LEAST:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    masked_BV = logits_BV <= MASKED_LOGIT / 2
    logits_BV = logits_BV.astype(jnp.float32)
    # The largest becomes 0, so that no temperature makes it infinite.
    logits_BV = (logits_BV - logits_BV.max(axis=-1, keepdims=True)) / sampling.temperature
    logits_BV = jnp.where(masked_BV, -jnp.inf, logits_BV)
    if sampling.top_k is not None and sampling.top_k < logits_BV.shape[-1]:
        least_B1 = jax.lax.top_k(logits_BV, sampling.top_k)[0][:, -1:]
        logits_BV = jnp.where(logits_BV >= least_B1, logits_BV, -jnp.inf)
    if sampling.top_p is not None:
        descending_BV = -jnp.sort(-logits_BV, axis=-1)
        p_BV = jax.nn.softmax(descending_BV, axis=-1)
        # A token is in when those before it hold less than top_p: the first always is.
        before_BV = jnp.cumsum(p_BV, axis=-1) - p_BV
        kept_BV = jnp.where(before_BV < max(sampling.top_p, LEAST), descending_BV, jnp.inf)
        logits_BV = jnp.where(logits_BV >= kept_BV.min(axis=-1, keepdims=True), logits_BV, -jnp.inf)
    return jax.random.categorical(key, logits_BV).astype(jnp.int32)
