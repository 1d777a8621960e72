"""The rate that metrics state is the one that the optimizer used."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_run import ADAFACTOR, ADAMW

from palmscale.optim import learning_rate
from palmscale.optim.learning_rate import LearningRate, updates_done
from palmscale.optim.schedules import Constant, InverseSqrt, WarmupCosine

# A width of 1 and no momentum: the change of the parameter shows the rate.
SCHEDULES = (
    WarmupCosine(peak=1e-3, warmup_steps=3, total_steps=9),
    InverseSqrt(peak=1e-2, hold_steps=2),
    Constant(value=5e-5),
)


@dataclasses.dataclass(frozen=True)
class Momentum:
    """A user's own optimizer with a schedule."""

    learning_rate: object

    def build(self, logical_axes):
        return optax.sgd(self.learning_rate, momentum=0.9)


def stated(optimizer, transformation, steps, skipped=()):
    """The rates stated for `steps` steps of a transformation; those `skipped` keep the state."""
    params = {"count": jnp.ones(3)}  # a parameter may be called so, too
    state = transformation.init(params)
    rates = LearningRate(optimizer)
    rates.begin(state)
    return [rates.metrics(skipped=step in skipped) for step in range(steps)]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_the_stated_rate_is_the_one_that_scales_the_update(schedule):
    transformation = optax.chain(optax.scale_by_schedule(schedule))
    params, rates = jnp.ones(()), LearningRate(Momentum(schedule))
    state = transformation.init(params)
    rates.begin(state)
    for _ in range(8):
        updates, state = transformation.update(jnp.ones(()), state, params)
        said = rates.metrics(skipped=False)["learning_rate"]
        assert said == pytest.approx(float(updates), rel=1e-6)


@pytest.mark.parametrize("optimizer", [ADAMW, Momentum(SCHEDULES[0])], ids=["AdamW", "own"])
def test_a_skipped_step_does_not_advance_the_rate(optimizer):
    said = stated(optimizer, optimizer.build(None), 5, skipped=(1, 2))
    expected = [float(optimizer.learning_rate(count)) for count in (0, 1, 1, 1, 2)]
    assert [metrics["learning_rate"] for metrics in said] == pytest.approx(expected)


def test_it_continues_from_the_count_of_a_restored_state_across_blocks(monkeypatch):
    monkeypatch.setattr(learning_rate, "_BLOCK", 4)
    rates = LearningRate(ADAMW)
    state = ADAMW.build(None).init(jnp.ones(3))
    restored = jax.tree.map(lambda a: a + 6 if a.dtype == jnp.int32 else a, state)
    rates.begin(restored)
    said = [rates.metrics(skipped=False)["learning_rate"] for _ in range(5)]
    np.testing.assert_allclose(said, [ADAMW.learning_rate(count) for count in range(6, 11)])


def test_palms_own_optimizer_counts_its_updates():
    axes = {"w": ("embed", "mlp")}
    state = ADAFACTOR.build(axes).init({"w": jnp.ones((2, 2))})
    assert updates_done(state) == 0


def test_a_number_is_a_rate_too():
    assert stated(Momentum(0.25), optax.adam(0.25), 2) == [{"learning_rate": 0.25}] * 2


@pytest.mark.parametrize(
    ("optimizer", "transformation"),
    [
        (object(), optax.adam(1e-3)),
        (Momentum(SCHEDULES[0]), optax.identity()),
    ],
    ids=["no schedule", "no count"],
)
def test_an_unknown_rate_is_left_out(optimizer, transformation):
    assert stated(optimizer, transformation, 2) == [{}, {}]
