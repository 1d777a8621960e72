"""Tokens are drawn from what temperature, top_k and top_p leave, and no other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmscale.errors import UserError
from palmscale.infer.sampling import Sampling, sample
from palmscale.model.attention import MASKED_LOGIT

V, DRAWS = 8, 2000
KEY = jax.random.key(0)
LOGITS = st.lists(st.integers(-20, 20), min_size=V, max_size=V, unique=True).map(
    lambda tenths: np.float32(tenths) / 5
)


def drawn(logits_V, sampling, draws=DRAWS):
    """Token ids of many draws from the same logits."""
    logits_BV = jnp.broadcast_to(jnp.asarray(logits_V), (draws, V))
    return np.asarray(sample(logits_BV, KEY, sampling))


def smallest_set(logits_V, p):
    """The fewest likeliest tokens whose probabilities reach p."""
    probability_V = np.exp(np.float64(logits_V))
    probability_V /= probability_V.sum()
    order = np.argsort(-probability_V)
    total = np.cumsum(probability_V[order])
    size = min(int(np.searchsorted(total, p)) + 1, V)
    return set(order[:size]), np.abs(total - p).min(), probability_V


@settings(deadline=None, max_examples=40)
@given(LOGITS, st.floats(0.05, 1.0))
def test_top_p_keeps_the_smallest_set_that_reaches_p(logits_V, p):
    kept, distance, probability_V = smallest_set(logits_V, p)
    if distance < 1e-5:  # float32 may see it on the other side
        return
    found = set(drawn(logits_V, Sampling(top_p=p)))
    assert found <= kept
    likely = {token for token in kept if probability_V[token] > 0.01}
    assert likely <= found


@settings(deadline=None, max_examples=20)
@given(LOGITS, st.integers(1, V + 2))
def test_top_k_keeps_the_k_likeliest(logits_V, k):
    found = set(drawn(logits_V / 4, Sampling(top_k=k)))  # flat, so that each one is drawn
    assert found <= set(np.argsort(-logits_V)[:k])
    flat = np.float32(np.arange(V)) / 10
    assert set(drawn(flat, Sampling(top_k=k))) == set(np.argsort(-flat)[:k])


@settings(deadline=None, max_examples=20)
@given(LOGITS)
def test_top_k_of_one_and_a_tiny_top_p_and_no_temperature_are_all_greedy(logits_V):
    for sampling in Sampling(top_k=1), Sampling(top_p=1e-6), Sampling(temperature=0.0):
        assert set(drawn(logits_V, sampling, 10)) == {logits_V.argmax()}


def test_draws_follow_the_softmax_at_the_temperature():
    logits_V = np.log(np.float32([8, 4, 2, 1, 1, 1, 1, 1e-9]))
    for temperature in 0.5, 1.0, 2.0:
        wanted = np.exp(logits_V / temperature)
        share = np.bincount(drawn(logits_V, Sampling(temperature=temperature)), minlength=V) / DRAWS
        np.testing.assert_allclose(share, wanted / wanted.sum(), atol=0.04)


def test_the_temperatures_limits_are_greedy_and_uniform():
    logits_V = np.float32(np.arange(V))
    assert set(drawn(logits_V, Sampling(temperature=1e-4))) == {V - 1}
    share = np.bincount(drawn(logits_V, Sampling(temperature=1e6)), minlength=V) / DRAWS
    np.testing.assert_allclose(share, 1 / V, atol=0.03)


def test_top_p_is_taken_after_temperature_and_top_k():
    logits_V = np.log(np.float32([0.4, 0.3, 0.2, 0.02, 0.02, 0.02, 0.02, 0.02]))
    assert set(drawn(logits_V, Sampling(top_p=0.5))) == {0, 1}
    assert set(drawn(logits_V, Sampling(top_p=0.5, temperature=0.1))) == {0}
    # Of the two likeliest alone, the first holds 0.57.
    assert set(drawn(logits_V, Sampling(top_p=0.5, top_k=2))) == {0}


def test_each_sequence_has_its_own_draw_and_the_key_alone_decides():
    logits_BV = jnp.zeros((64, V))
    first = sample(logits_BV, KEY, Sampling())
    assert first.dtype == jnp.int32 and first.shape == (64,)
    assert len(set(first.tolist())) == V
    np.testing.assert_array_equal(first, sample(logits_BV, KEY, Sampling()))
    assert (first != sample(logits_BV, jax.random.key(1), Sampling())).any()


def test_bfloat16_logits_are_sampled_in_float32():
    logits_BV = jnp.asarray([[0.0, 100.0, 100.5, 0.0]], jnp.bfloat16)
    assert sample(logits_BV, KEY, Sampling(top_p=1e-6)) == 2


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"temperature": -0.1}, r"temperature=-0.1 must be 0 \(greedy\) or more"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_k": 0}, "top_k=0 must be at least 1"),
        ({"top_p": 0.0}, r"top_p=0.0 must be in \(0, 1\]"),
        ({"top_p": 1.1}, "top_p=1.1"),
    ],
)
def test_values_out_of_range_are_the_users_mistake(fields, message):
    with pytest.raises(UserError, match=message):
        Sampling(**fields)


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-38, 1e-12])
def test_a_temperature_near_0_is_greedy(temperature):
    logits_V = np.float32([-3, 100, 99.5, 0, 1, 2, 99, -1e10])
    assert set(drawn(logits_V, Sampling(temperature=temperature), 50)) == {1}


@pytest.mark.parametrize("temperature", [1e10, 1e38, 1e300])
@pytest.mark.parametrize("more", [{}, {"top_k": 7}, {"top_p": 0.99}])
def test_no_temperature_draws_what_the_model_has_masked(temperature, more):
    logits_V = np.float32([-3, 5, 2, 0, 1, MASKED_LOGIT, MASKED_LOGIT, MASKED_LOGIT])
    found = set(drawn(logits_V, Sampling(temperature=temperature, **more)))
    assert found == {0, 1, 2, 3, 4}


def test_the_least_top_p_is_greedy():
    assert set(drawn(np.float32(np.arange(V)), Sampling(top_p=1e-45), 50)) == {V - 1}
