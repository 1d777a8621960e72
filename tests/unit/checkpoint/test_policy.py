import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palmscale.checkpoint.policy import KeepPolicy, Retries, ranked_by_metric, steps_to_delete
from palmscale.errors import UserError

METRIC = "eval_loss"
policies = st.builds(
    KeepPolicy,
    latest=st.integers(1, 5),
    best=st.integers(0, 3),
    every_steps=st.none() | st.integers(1, 20),
)
runs = st.dictionaries(st.integers(0, 100), st.floats() | st.none(), max_size=20)


@given(policies, runs, st.sets(st.integers(0, 100), max_size=4))
def test_keeps_what_it_promises_and_nothing_else(policy, run, protected):
    metrics = {step: {} if value is None else {METRIC: value} for step, value in run.items()}
    deleted = steps_to_delete(policy, steps=list(run), metrics=metrics, protected=protected)
    kept = set(run) - set(deleted)
    assert deleted == sorted(set(deleted)) and set(deleted) <= set(run)
    assert not protected & set(deleted)
    assert set(sorted(run)[-policy.latest :]) <= kept
    assert not run or max(run) in kept
    assert not [step for step in deleted if policy.every_steps and step % policy.every_steps == 0]
    best = ranked_by_metric(metrics, METRIC)[: policy.best]
    assert set(best) <= kept
    reasons = set(sorted(run)[-policy.latest :]) | set(best) | protected
    assert all(step in reasons or step % policy.every_steps == 0 for step in kept)


@given(policies, runs)
def test_deciding_again_deletes_nothing_more(policy, run):
    metrics = {step: {} if value is None else {METRIC: value} for step, value in run.items()}
    kept = set(run) - set(steps_to_delete(policy, steps=list(run), metrics=metrics))
    assert steps_to_delete(policy, steps=kept, metrics=metrics) == []


def test_ranks_lowest_first_then_newest_and_ignores_what_is_not_finite():
    metrics = {
        1: {"m": 2.0},
        2: {"m": 1.0},
        3: {"m": 1.0},
        4: {"m": math.nan},
        5: {},
        6: {"m": -math.inf},
    }
    assert ranked_by_metric(metrics, "m") == [3, 2, 1]


def test_one_step_is_kept_each_time_that_the_seconds_have_passed():
    policy = KeepPolicy(latest=1, best=0, every_seconds=60)
    times = {1: 0.0, 2: 30.0, 3: 59.9, 4: 61.0, 5: 120.0, 6: 121.0, 7: 122.0}
    assert steps_to_delete(policy, steps=list(times), metrics={}, times=times) == [2, 3, 5]
    kept = {step: times[step] for step in (1, 4, 6, 7)}
    assert steps_to_delete(policy, steps=list(kept), metrics={}, times=kept) == []


def test_the_default_metric_is_one_that_every_evaluation_has():
    # Packed rows have no bits per byte, and a mixture's mean is under the plain name.
    assert KeepPolicy().best_metric == "eval_loss"


@pytest.mark.parametrize("wrong", [{"failures": -1}, {"wait_seconds": -1.0}])
def test_impossible_retries_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Retries(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"latest": 0}, {"every_steps": 0}, {"every_seconds": 0.0}, {"best": -1}]
)
def test_impossible_policies_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        KeepPolicy(**wrong)
