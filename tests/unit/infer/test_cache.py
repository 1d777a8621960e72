"""A cache starts empty, in the form that its layers have."""

import jax.numpy as jnp

from palmscale.infer.cache import empty_cache
from palmscale.model.interface import CacheSpec

SPEC = CacheSpec(layers=3, head_dim=4, dtype="bfloat16")


def test_an_empty_cache_has_room_and_no_tokens():
    cache = empty_cache(SPEC, batch=2, positions=8)
    assert cache.k_NBSK.shape == cache.v_NBSK.shape == (3, 2, 8, 4)
    assert cache.k_NBSK.dtype == jnp.bfloat16
    assert cache.length.tolist() == [0, 0] and cache.length.dtype == jnp.int32


def test_layers_apart_have_caches_apart():
    cache = empty_cache(SPEC, batch=2, positions=8, apart=True)
    assert [k_BSK.shape for k_BSK in cache.k_NBSK] == 3 * [(2, 8, 4)]
    assert [v_BSK.shape for v_BSK in cache.v_NBSK] == 3 * [(2, 8, 4)]
