import dataclasses
import sys
import types
from pathlib import Path

import pytest
import small_plan

from palmscale.train.compile import CompiledStep

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
import backtest_page  # noqa: E402
import plan_backtest  # noqa: E402
from backtest_page import Outcome, Result  # noqa: E402
from published_runs import PUBLISHED_RUNS, PublishedRun  # noqa: E402

TINY = PublishedRun(
    name="tiny",
    source="nobody",
    setting="nowhere",
    topology="v5e:2x2",
    sequences=8,
    length=256,
    model_parallel=2,
    tokens_per_second_per_chip=1e6,
    decoder=dict(dim=256, mlp_dim=512, heads=2, kv_heads=2, dim_head=128, depth=2),
    assumed=("everything",),
)
PEAK, PARAMETERS, ATTENTION = 100e12, 10**9, 10**9  # 6e9 + 1e9 FLOPs a token


def outcome(low=0.5, high=0.7, **run):
    """A row on a chip that reaches 100 TFLOP/s, and a plan of it between two MFUs."""

    def step_seconds(mfu):
        return 7e9 * 2048 / (mfu * PEAK)

    bounds = small_plan.prediction(step_seconds(high), step_seconds(low))
    prediction = dataclasses.replace(
        bounds,
        lower_bound=dataclasses.replace(bounds.lower_bound, mfu=high),
        upper_bound=dataclasses.replace(bounds.upper_bound, mfu=low),
    )
    verdict = small_plan.fits(
        parameters=PARAMETERS, chips=1, batch_sequences=8, sequence_length=256,
        prediction=prediction,
    )  # fmt: skip
    result = Result(versions={}, peak_flops=PEAK, attention_flops_per_token=ATTENTION,
                    plan=small_plan.plan(verdict))  # fmt: skip
    given = {"tokens_per_second_per_chip": None, **run}
    return Outcome(run=dataclasses.replace(TINY, **given), result=result)


@pytest.mark.parametrize(
    ("counted", "mfu"), [(1.0, 0.48), (0.5, 0.48 * 7 / 6.5), (0.0, 0.48 * 7 / 6)]
)
def test_an_mfu_is_converted_to_the_papers_by_what_its_source_counts(counted, mfu):
    one = outcome(mfu=0.48, attention_counted=counted)
    assert one.reported_mfu == pytest.approx(mfu)
    assert one.error == pytest.approx(0.6 / mfu - 1)


def test_tokens_a_second_need_no_definition():
    one = outcome(tokens_per_second_per_chip=1e4, attention_counted=0.0)
    assert one.reported_mfu == pytest.approx(0.7)
    assert one.error == pytest.approx(0.6 / 0.7 - 1)


@pytest.mark.parametrize(
    ("mfu", "inside"), [(0.49, False), (0.5, True), (0.7, True), (0.71, False)]
)
def test_inside_includes_the_ends(mfu, inside):
    assert outcome(mfu=mfu).is_inside == inside


def test_the_mean_is_over_rows_with_a_prediction():
    without = Outcome(run=TINY, result=None)
    rows = [outcome(mfu=0.5), outcome(mfu=0.75), without]
    assert backtest_page.mean_absolute_error(rows) == pytest.approx((0.2 + 0.2) / 2)
    assert backtest_page.mean_absolute_error([without]) is None
    assert "2 of 3 rows; in 1 of them" in backtest_page.summary(rows)


def test_rows_without_a_prediction_say_why():
    not_run = dataclasses.replace(outcome(mfu=0.5), result=None)
    clockless = dataclasses.replace(not_run, run=dataclasses.replace(TINY, topology="tpu7x:4x4x4"))
    result = dataclasses.replace(outcome().result, plan=small_plan.plan(small_plan.does_not_fit()))
    large = dataclasses.replace(outcome(mfu=0.5), result=result)
    states = [row[2] for row in backtest_page.table([not_run, large, clockless])[1:]]
    assert states == ["not run", "does not fit", "unknown: no clock"]
    page = backtest_page.page([not_run, large], {"date": "today"}, "command", "\nRemarks.\n")
    assert "| tiny | 50.0% | not run |" in page and page.endswith("Remarks.\n")


def test_every_row_names_its_source_and_one_speed():
    assert len({run.name for run in PUBLISHED_RUNS}) == len(PUBLISHED_RUNS)
    for run in PUBLISHED_RUNS:
        assert run.source and run.setting and "," not in run.name
        assert (run.mfu is None) != (run.tokens_per_second_per_chip is None)


PROGRAM = """\
HloModule jit_train_step, is_scheduled=true

%double (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  ROOT %sum = f32[8]{0} add(%a, %a)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  ROOT %fusion = f32[8]{0} fusion(%x), calls=%double, backend_config={"estimated_cycles":"3000000"}
}
"""
SIZES = ("peak_memory", "argument_size", "output_size", "alias_size", "temp_size",
         "generated_code_size")  # fmt: skip


@pytest.fixture
def compilations(monkeypatch):
    """The compiler, which takes a minute for the least of steps, answers at once."""
    calls = []
    memory = types.SimpleNamespace(**{f"{name}_in_bytes": 2**20 for name in SIZES})
    compiled = types.SimpleNamespace(as_text=lambda: PROGRAM, memory_analysis=lambda: memory)
    monkeypatch.setattr(CompiledStep, "compile", lambda *args: calls.append(args) or compiled)
    return calls


def test_a_row_is_planned_and_its_program_remembered(tmp_path, monkeypatch, compilations):
    first = plan_backtest.predict(TINY, tmp_path).plan.verdict
    assert first.fits and first.parameters > 0
    assert first.prediction.lower_bound.step_seconds == 3_000_000 / 1.5e9
    assert plan_backtest.predict(TINY, tmp_path).plan.verdict.prediction == first.prediction
    assert len(compilations) == 1
    plan_backtest.predict(dataclasses.replace(TINY, options={"another": True}), tmp_path)
    assert len(compilations) == 2


def test_the_command_writes_the_page_and_keeps_the_remarks(
    tmp_path, monkeypatch, compilations, capsys
):
    # What the child does, here: it knows the published rows alone.
    monkeypatch.setattr(
        plan_backtest,
        "_in_a_process",
        lambda name, args: 0 if plan_backtest.predict(TINY, args.cache) else 1,
    )
    page = tmp_path / "page.md"
    page.write_text("old\n## What explains the errors\n\nThe weather.\n")
    arguments = [f"--cache={tmp_path}", f"--write={page}"]
    assert plan_backtest.main(arguments, [TINY]) == 0
    assert "over 1 of 1 rows" in capsys.readouterr().out
    assert "| tiny |" in page.read_text() and page.read_text().endswith("The weather.\n")
    assert plan_backtest.main([*arguments, "--rows=none"], [TINY]) == 2
    assert "no row 'none'; there are tiny" in capsys.readouterr().err
