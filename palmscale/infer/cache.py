"""The key-value cache of generation: an explicit value with room for a number of tokens."""

import jax
import jax.numpy as jnp

from palmscale import axes
from palmscale.model.attention import Cache
from palmscale.model.interface import CacheSpec
from palmscale.partition.shardings import constrain


def empty_cache(
    spec: CacheSpec, *, batch: int, positions: int, apart: bool = False, staging: bool = False
) -> Cache:
    """Returns a cache with room for `positions` tokens: 2 N S K elements a sequence (multi-query).

    Args:
        spec: of the model's cache.
        batch: sequences; each has a length of its own.
        positions: S, the tokens that fit.
        apart: whether each layer's part is an array of its own, as the weights are.
        staging: whether it is for one sequence, which no device has a part of.
    """

    def empty() -> jax.Array:
        shape, names = (batch, positions, spec.head_dim), (axes.CACHE_BATCH, None, None)
        if staging:
            names = (None, None, None)
        if apart:
            return tuple(constrain(jnp.zeros(shape, spec.dtype), names) for _ in range(spec.layers))
        return constrain(jnp.zeros((spec.layers, *shape), spec.dtype), (None, *names))

    return Cache(empty(), empty(), jnp.zeros(batch, jnp.int32))
