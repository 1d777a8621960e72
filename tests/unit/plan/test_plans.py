import dataclasses

import pytest
import small_plan

from palmscale.plan.plans import Plan, Plans

PLAN = Plan(
    verdict=small_plan.fits(), tokens_to_train=512 * 2048 * 86400, dollars_per_chip_hour=2.0
)


def test_the_cost_is_the_steps_of_the_budget_at_one_speed():
    speed = dataclasses.replace(PLAN.verdict.prediction.lower_bound, step_seconds=10.0)
    cost = PLAN.cost(speed)
    assert cost.days == pytest.approx(10)
    assert cost.chip_hours == pytest.approx(10 * 24 * 256)
    assert cost.dollars == pytest.approx(2 * cost.chip_hours)
    assert dataclasses.replace(PLAN, dollars_per_chip_hour=None).cost(speed).dollars is None


def test_a_run_fits_where_every_batch_does_and_its_verdict_is_that_of_the_largest():
    not_fitting = dataclasses.replace(PLAN, verdict=small_plan.does_not_fit())
    plans = Plans(versions={}, run={}, plans=(PLAN, not_fitting))
    assert not plans.fits and plans.verdict == small_plan.does_not_fit()
    assert Plans(versions={}, run={}, plans=(PLAN,)).fits
