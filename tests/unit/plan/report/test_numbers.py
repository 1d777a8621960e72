import json

import pytest
import small_plan

from palmscale.plan.plans import Plans
from palmscale.plan.report import numbers


def read(plan):
    return json.loads(json.dumps(numbers.to_json(plan)))


def test_a_plan_is_json_and_says_what_it_is_of():
    found = read(small_plan.plan())
    assert (found["topology"], found["chips"], found["hosts"]) == ("v5e:16x16", 256, 64)
    assert found["mesh"] == {"data": 16, "model": 16} and found["fits"]
    assert found["placement"] == {"data": {"torus": "16 (ring) x 1", "slices": 1}}
    assert (found["batch_sequences"], found["step_digest"]) == (512, "d" * 64)


@pytest.mark.parametrize(
    "verdict",
    [small_plan.fits(), small_plan.fits(prediction=None), small_plan.does_not_fit()],
    ids=["fits", "unknown clock", "does not fit"],
)
def test_a_plan_comes_back_from_json(verdict):
    plan = small_plan.plan(verdict, dollars_per_chip_hour=2.0)
    assert numbers.from_json(read(plan)) == plan
    plans = Plans(versions={"jax": "1"}, run={"seed": 0}, plans=(plan,))
    whole = json.loads(json.dumps(numbers.plans_to_json(plans)))
    assert numbers.plans_from_json(whole) == plans


def test_collectives_are_counted_by_the_layer_and_the_step():
    scatter = read(small_plan.plan())["collectives"][0]
    assert (scatter["executions_per_step"], scatter["executions_per_layer"]) == (3, 1.0)
    assert read(small_plan.plan())["collective_bytes"] == {
        "reduce-scatter over data, synchronous": 3 * 4 * 2**20,
        "all-gather over data, asynchronous": 3 * 2 * 2**20,
        "all-reduce over model, synchronous": 2**18,
    }


def test_a_speed_has_two_bounds_a_price_and_is_called_a_prediction():
    prediction = read(small_plan.plan(dollars_per_chip_hour=2.0))["prediction"]
    assert "not measured" in prediction["label"]
    lower, upper = prediction["lower_bound"], prediction["upper_bound"]
    assert (lower["step_seconds"], upper["step_seconds"]) == (1.0, 1.25)
    assert lower["chip_hours"] == 1000 * 1.0 * 256 / 3600
    assert lower["dollars"] == 2 * lower["chip_hours"]


def test_what_does_not_fit_has_no_entries_of_a_program():
    found = read(small_plan.plan(small_plan.does_not_fit()))
    assert not found["fits"] and found["memory"]["saved_arrays"]
    assert not {"prediction", "collectives", "compile_cpu_seconds"} & found.keys()
    assert "peak_bytes_by_kind" not in found["memory"]
