"""The key-value cache of generation: an explicit value that starts small and grows."""

import jax
import jax.numpy as jnp

from palmscale.model.attention import Cache


def empty_cache(*, layers: int, batch: int, slots: int, head_dim: int, dtype: str) -> Cache:
    """Returns a cache with room for `slots` tokens: 2 N S K elements a sequence (multi-query)."""
    shape = (layers, batch, slots, head_dim)
    return Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.zeros((), jnp.int32))


def grown(cache: Cache, slots: int) -> Cache:
    """Returns the cache with room for `slots` tokens, at least what it has; contents unchanged."""
    more = slots - cache.k_NBSK.shape[2]

    def pad(a_NBSK: jax.Array) -> jax.Array:
        return jnp.pad(a_NBSK, ((0, 0), (0, 0), (0, more), (0, 0)))

    return Cache(pad(cache.k_NBSK), pad(cache.v_NBSK), cache.length)
