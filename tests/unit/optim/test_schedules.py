"""Learning rates at the points that the paper states, and continuous between them."""

import jax.numpy as jnp
import numpy as np
import pytest

from palmscale.errors import UserError
from palmscale.optim.schedules import Constant, InverseSqrt, WarmupCosine

PAPER = InverseSqrt(peak=1e-2, hold_steps=10_000)


@pytest.mark.parametrize(
    "step, rate", [(1, 1e-2), (5_000, 1e-2), (10_000, 1e-2), (40_000, 5e-3), (255_000, 1.980e-3)]
)
def test_the_papers_rate_is_held_and_then_falls_as_one_over_the_root_of_the_step(step, rate):
    np.testing.assert_allclose(PAPER(step - 1), rate, rtol=2e-4)
    np.testing.assert_allclose(PAPER(step - 1), 1 / np.sqrt(max(step, 10_000)), rtol=1e-6)


def test_a_warmup_ramps_up_linearly_and_changes_nothing_after():
    warm = InverseSqrt(peak=1e-2, hold_steps=10_000, warmup_steps=100)
    np.testing.assert_allclose(warm(np.array([0, 49, 99])), [1e-4, 5e-3, 1e-2], rtol=1e-6)
    np.testing.assert_array_equal(
        warm(np.arange(99, 30_000, 777)), PAPER(np.arange(99, 30_000, 777))
    )


def test_cosine_rises_falls_and_stays_at_its_final_rate():
    schedule = WarmupCosine(peak=1.0, warmup_steps=10, total_steps=110, final=0.1)
    steps = [0, 5, 10, 60, 110, 1000]
    np.testing.assert_allclose(
        schedule(np.array(steps)), [0, 0.5, 1, 0.55, 0.1, 0.1], rtol=1e-6, atol=1e-7
    )
    assert WarmupCosine(peak=1.0, warmup_steps=0, total_steps=10)(0) == 1.0


@pytest.mark.parametrize(
    "schedule", [PAPER, Constant(value=5e-5), WarmupCosine(peak=1, warmup_steps=1, total_steps=9)]
)
def test_every_schedule_returns_float32_for_the_counters_of_a_state(schedule):
    rate = schedule(jnp.int32(7))
    assert rate.dtype == jnp.float32 and rate.shape == ()
    assert schedule(0).dtype == jnp.float32


def test_bad_fields_are_the_users_mistake_and_named_with_their_values():
    with pytest.raises(UserError, match=r"peak=0.*needs peak > 0"):
        InverseSqrt(peak=0, hold_steps=1)
    with pytest.raises(UserError, match="hold_steps=0.*hold_steps >= 1"):
        InverseSqrt(peak=1, hold_steps=0)
    with pytest.raises(UserError, match="warmup_steps=-1"):
        InverseSqrt(peak=1, hold_steps=1, warmup_steps=-1)
    with pytest.raises(UserError, match="value=-1.*value > 0"):
        Constant(value=-1)
    with pytest.raises(UserError, match="warmup_steps=9, total_steps=9"):
        WarmupCosine(peak=1, warmup_steps=9, total_steps=9)
