import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palmscale.checkpoint.policy import KeepPolicy, ranked_by_metric, steps_to_delete

METRIC = "held_out_bits_per_byte"
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


@pytest.mark.parametrize("wrong", [{"latest": 0}, {"every_steps": 0}, {"best": -1}])
def test_impossible_policies_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        KeepPolicy(**wrong)
