import json

import small_plan
from small_plan import GIB
from small_program import TEXT

from palmscale.plan import hlo, memory, report


def plan(dollars=None, **changes):
    return report.to_json(
        small_plan.verdict(**changes),
        tokens_to_train=1000 * 512 * 2048,
        dollars_per_chip_hour=dollars,
    )


def test_a_plan_is_json_and_says_what_it_is_of():
    read = json.loads(json.dumps(plan()))
    assert (read["topology"], read["chips"], read["hosts"]) == ("v5e:16x16", 256, 64)
    assert read["mesh"] == {"data": 16, "model": 16}
    assert read["placement"] == {"data": {"torus": "16 (ring) x 1", "slices": 1}}
    assert (read["batch_sequences"], read["step_digest"]) == (512, "d" * 64)


def test_collectives_are_counted_by_the_layer_and_the_step():
    scatter = plan()["collectives"][0]
    assert (scatter["executions_per_step"], scatter["executions_per_layer"]) == (3, 1.0)
    assert plan()["collective_bytes"] == {
        "reduce-scatter over data, synchronous": 3 * 4 * 2**20,
        "all-gather over data, asynchronous": 3 * 2 * 2**20,
        "all-reduce over model, synchronous": 2**18,
    }


def test_a_speed_is_an_interval_and_called_a_prediction():
    prediction = plan(dollars=2.0)["prediction"]
    assert "not measured" in prediction["label"]
    fast, slow = prediction["at_best"], prediction["if_nothing_overlaps"]
    assert (fast["step_seconds"], slow["step_seconds"]) == (1.0, 1.25)
    assert fast["chip_hours"] == 1000 * 1.0 * 256 / 3600
    assert fast["dollars"] == 2 * fast["chip_hours"]
    lines = dict(report.facts(plan(dollars=2.0)))
    assert lines["step time"] == "1.00 to 1.25 s"
    assert lines["MFU (paper's)"] == "40.0% to 50.0%; causal 38.0% to 48.0%"
    assert lines["price"] == "142 to 178 dollars"


def test_an_unknown_clock_prints_unknown():
    lines = dict(report.facts(plan(times=None, fast=None, slow=None)))
    assert lines["step time"].startswith("unknown")
    assert "MFU (paper's)" not in lines


def test_what_does_not_fit_says_by_how_much_and_no_speed():
    step = small_plan.step(saved=(("float32", (3, 512, 8), 256 * GIB),))
    one = plan(step=step, fits=False, needed_bytes=int(31.5 * GIB), held={}, found=(), surprises=(),
               times=None, fast=None, slow=None, compiled=None)  # fmt: skip
    lines = dict(report.facts(one))
    assert lines["memory"].startswith("DOES NOT FIT: the step's own arrays need 31.50 GiB")
    assert "15.75, 2.0 times too much" in lines["memory"]
    assert lines["  saved"] == (
        "float32[3,512,8] for the backward pass, 256.00 GiB in all: at least 1.00 GiB a device"
    )
    assert "step time" not in lines


def test_rows_of_collectives_and_arrays_are_sorted_and_short():
    verdict = small_plan.verdict()
    headings, rows = report.collective_rows(verdict.found)
    assert rows[0] == [
        "reduce-scatter data", "f32[1024,1024]", "3", "4.0", "0.1", "alone", "backward",
        "model.py:12",
    ]  # fmt: skip
    assert len(headings) == len(rows[0])
    headings, rows = report.array_rows(memory.at_the_peak(hlo.parse(TEXT)))
    assert rows[0][:3] == ["f32[1024,1024]", "1", "4.0"]
    assert len(headings) == len(rows[0])
