"""Spikes: what is one, where to go back to, and that a resumed run comes to the same verdict."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palmscale.errors import UserError
from palmscale.train.spike import (
    Detector,
    Spike,
    SpikePolicy,
    rewind_target,
    steps_to_skip,
    to_keep,
)

POLICY = SpikePolicy(window_steps=16, patience_steps=3, non_finite_steps=2)
CALM = [(3.0 + 0.01 * (step % 3), 1.0) for step in range(20)]


def verdicts(values, detector=None, first=1):
    """What is found at each step, without the steps at which nothing is."""
    detector = detector or Detector(POLICY)
    found = [
        detector.observe(step, loss=loss, grad_norm=norm)
        for step, (loss, norm) in enumerate(values, first)
    ]
    return [spike for spike in found if spike]


def test_calm_losses_are_no_spike():
    assert verdicts(CALM * 5) == []


def test_a_falling_loss_is_no_spike():
    assert verdicts([(10 * 0.99**step, 5 * 0.99**step) for step in range(300)]) == []


def test_a_loss_that_stays_high_is_one_from_its_first_step_once_patience_ends():
    (spike,) = verdicts([*CALM, *[(4.5, 1.0)] * 3])
    assert (spike.onset, spike.found) == (21, 23)
    assert "loss 4.5" in spike.reason and "3.01" in spike.reason


def test_fewer_high_steps_than_patience_are_none():
    assert verdicts([*CALM, *[(4.5, 1.0)] * 2, *CALM, (4.5, 1.0)]) == []


def test_a_gradient_norm_of_a_hundred_times_its_median_is_suspect():
    (spike,) = verdicts([*CALM, *[(3.0, 200.0)] * 3])
    assert spike.onset == 21 and "gradient norm 200" in spike.reason


def test_a_small_rise_over_a_very_still_loss_is_none():
    assert verdicts([(3.0, 1.0)] * 20 + [(3.2, 1.0)] * 20) == []


def test_before_half_a_window_nothing_is_suspect():
    assert verdicts([*CALM[:4], *[(100.0, 1.0)] * 4]) == []


@pytest.mark.parametrize("bad", [(math.nan, 1.0), (3.0, math.inf)])
def test_steps_that_are_not_finite_are_one_even_at_the_start(bad):
    assert [(s.onset, s.found) for s in verdicts([CALM[0], bad, bad])] == [(2, 3)]
    assert verdicts([CALM[0], bad, CALM[0], bad]) == []


def test_neither_suspect_nor_non_finite_values_reach_the_window():
    detector = Detector(POLICY)
    verdicts([*CALM, (50.0, 1.0), (math.nan, 1.0), (3.0, math.inf)], detector)
    known = detector.to_json()["window"]
    assert all(loss < 4 and math.isfinite(norm) for loss, norm in known)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([3.0, 3.1, 2.9, 9.0, math.nan]), st.sampled_from([1.0, 1.1, 500.0])
        ),
        max_size=60,
    ),
    st.integers(0, 60),
)
def test_a_detector_that_went_through_a_checkpoint_finds_the_same(values, cut):
    values = [*CALM, *values]
    whole = verdicts(values)
    detector = Detector(POLICY)
    before = verdicts(values[:cut], detector)
    resumed = Detector(POLICY, json.loads(json.dumps(detector.to_json())))
    assert before + verdicts(values[cut:], resumed, first=len(values[:cut]) + 1) == whole


@pytest.mark.parametrize(
    ("saved", "onset", "target"),
    [([100, 200, 300], 310, 200), ([100, 200, 300], 300, 200), ([250, 300], 310, 0), ([], 310, 0)],
)
def test_the_target_is_the_newest_that_is_old_enough(saved, onset, target):
    assert rewind_target(saved, onset, 100) == target


@given(every=st.integers(1, 150), rewind=st.integers(1, 120), latest=st.integers(1, 3))
def test_whatever_is_deleted_a_rewind_goes_back_less_than_twice_as_far(every, rewind, latest):
    saved = set()
    for now in range(every, 1500, every):
        saved.add(now)
        kept = to_keep(saved, now, rewind)
        assert len(kept) <= 3
        saved = kept | set(sorted(saved)[-latest:])
        for onset in range(now + 1, now + every + 1):
            target = rewind_target(saved, onset, rewind)
            assert onset - target >= rewind or target == 0
            assert onset - target < 2 * rewind + 2 * every or onset < 2 * (rewind + every)


def test_at_least_all_that_went_wrong_is_skipped():
    assert steps_to_skip(Spike(31, 33, ""), 20, 300) == 300
    assert steps_to_skip(Spike(31, 333, ""), 20, 300) == 313


@pytest.mark.parametrize("field", ["window_steps", "patience_steps", "skip_steps"])
def test_a_policy_below_one_is_refused(field):
    with pytest.raises(UserError, match=f"SpikePolicy.{field}=0"):
        SpikePolicy(**{field: 0})
