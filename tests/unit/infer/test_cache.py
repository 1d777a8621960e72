"""A cache starts empty and grows without touching what it holds."""

import jax.numpy as jnp
import numpy as np

from palmscale.infer.cache import empty_cache, grown
from palmscale.model.attention import Cache


def test_an_empty_cache_has_room_and_no_tokens():
    cache = empty_cache(layers=3, batch=2, slots=8, head_dim=4, dtype="bfloat16")
    assert cache.k_NBSK.shape == cache.v_NBSK.shape == (3, 2, 8, 4)
    assert cache.k_NBSK.dtype == jnp.bfloat16
    assert cache.length == 0 and cache.length.dtype == jnp.int32


def test_a_grown_cache_holds_the_same_tokens_and_more_room():
    random = np.random.default_rng(0)
    cache = Cache(*random.normal(size=(2, 3, 2, 8, 4)).astype("f4"), jnp.int32(5))
    more = grown(cache, 16)
    assert more.k_NBSK.shape == more.v_NBSK.shape == (3, 2, 16, 4)
    assert more.length == 5
    np.testing.assert_array_equal(more.k_NBSK[:, :, :8], cache.k_NBSK)
    np.testing.assert_array_equal(more.v_NBSK[:, :, :8], cache.v_NBSK)
    same = grown(cache, 8)
    np.testing.assert_array_equal(same.k_NBSK, cache.k_NBSK)
