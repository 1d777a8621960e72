"""The programs of an engine leave what is not theirs alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palmscale import PaLM
from palmscale.infer.cache import empty_cache
from palmscale.infer.programs import Slots, decode, insert, layers_apart, logits_size, take
from palmscale.infer.slot_rows import empty_rows
from palmscale.infer.weights import decoding_form
from palmscale.partition.shardings import unbox
from palmscale.train.state import abstract_params

MODEL = PaLM(num_tokens=11, dim=4, depth=2, heads=1, dim_head=4, ff_mult=2, padded_tokens=16)


@pytest.fixture(scope="module", params=[False, True], ids=["stacked", "apart"])
def form(request):
    random = np.random.default_rng(0)
    draw = lambda leaf: jnp.asarray(random.normal(size=leaf.shape), "float32")  # noqa: E731
    params = jax.tree.map(draw, unbox(abstract_params(MODEL)))
    return decoding_form(MODEL, params, apart=request.param)


def filled(apart, batch, value):
    cache = empty_cache(MODEL.cache_spec(), batch=batch, positions=6, apart=apart)
    return jax.tree.map(lambda a: jnp.full_like(a, value), cache)


def keys(cache):
    """[N, B, S, K]"""
    return np.stack([np.asarray(k) for k in cache.k_NBSK])


def test_a_staged_prompt_is_written_to_its_slot_alone_and_read_back(form):
    apart = layers_apart(*form)
    slots = Slots(cache=filled(apart, 3, 1), token_B=jnp.zeros(3, int), rows=empty_rows(3))
    slots = insert(slots, filled(apart, 1, 7), np.int32(1), np.int32(4), np.int32(9))
    assert np.unique(keys(slots.cache)[:, 1]).tolist() == [7]
    assert np.unique(keys(slots.cache)[:, [0, 2]]).tolist() == [1]
    assert slots.cache.length.tolist() == [1, 4, 1] and slots.token_B.tolist() == [0, 9, 0]
    assert np.unique(keys(take(slots.cache, np.int32(1)))).tolist() == [7]
    assert take(slots.cache, np.int32(0)).length.shape == (1,)


def test_a_slot_that_takes_no_part_keeps_its_length_its_token_and_what_it_has_cached(form):
    apart = layers_apart(*form)
    cache = filled(apart, 2, 1).replace(length=jnp.array([2, 3]))
    before = keys(cache)
    slots = Slots(cache=cache, token_B=jnp.array([5, 6]), rows=empty_rows(2))
    active_B = np.array([True, False])
    slots, drawn = decode(*form, slots, active_B, filters=False, top=2)
    assert slots.cache.length.tolist() == [3, 3]
    assert slots.token_B.tolist() == [int(drawn.token_B[0]), 6]
    np.testing.assert_array_equal(keys(slots.cache)[:, 0, :2], before[:, 0, :2])
    np.testing.assert_array_equal(keys(slots.cache)[:, 1, :3], before[:, 1, :3])
    assert drawn.top_ids_BK.shape == (2, 2)


def test_the_logits_have_a_row_for_each_stored_token(form):
    assert logits_size(*form) == 16
