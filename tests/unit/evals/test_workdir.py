"""Checkpoints on tasks and text: one or all, of a run or imported, and where the metrics go."""

import json
import shutil

import forged
import pytest
from small_run import on_text

import palmscale
from palmscale.checkpoint.lease import Lease
from palmscale.evals.text import TextEvaluation
from palmscale.evals.workdir import _told_at_times, evaluate_workdir
from palmscale.observe.writers import TensorBoard
from palmscale.run.quantize import quantize

NAME = "eval/text/bits_per_byte"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def trained(folder):
    return palmscale.train(on_text(folder), folder / "run").workdir


@pytest.fixture
def workdir(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def opened(folder):
    return lambda: [TextEvaluation(files=f"{folder}/a.txt")]


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_all_checkpoints_are_evaluated_oldest_first_and_recorded_at_their_steps(
    workdir, opened, folder
):
    before = lines(workdir)
    found = evaluate_workdir(workdir, opened, checkpoint="all", context_length=48)
    assert [one.step for one in found] == [2, 4] and found[0].leads
    text = (folder / "a.txt").read_text()
    for one in found:
        (score,) = palmscale.load(workdir, one.step).score([text], context_length=48)
        assert one.metrics[NAME] == pytest.approx(score.bits_per_byte, abs=1e-5)
    metrics = {one.step: one.metrics for one in found}
    assert lines(workdir) == [{**line, **metrics.get(line["step"], {})} for line in before]
    (step_4,) = evaluate_workdir(workdir, opened, checkpoint=4)
    assert step_4.step == 4 and step_4.metrics[NAME] != found[1].metrics[NAME]  # another context
    assert len(lines(workdir)) == 4


def test_an_average_is_evaluated_and_not_recorded(workdir, opened, folder):
    before = lines(workdir)
    (found,) = evaluate_workdir(workdir, opened, average=2, context_length=48)
    text = (folder / "a.txt").read_text()
    (score,) = palmscale.load(workdir, average=2).score([text], context_length=48)
    assert found.metrics[NAME] == pytest.approx(score.bits_per_byte, abs=1e-5)
    assert lines(workdir) == before


def test_the_runs_metric_writers_get_them(folder, opened, tmp_path, monkeypatch):
    from palmscale.observe.reporting import Reporting

    logged = {}
    monkeypatch.setattr(TensorBoard, "write", lambda _, step, m: logged.update({step: m}))
    run = on_text(folder, reporting=Reporting(tensorboard=True))
    palmscale.train(run, tmp_path / "run")
    logged.clear()
    (found,) = evaluate_workdir(tmp_path / "run", opened)
    assert logged == {4: found.metrics}


def test_while_a_job_holds_the_folder_the_metrics_are_returned_with_a_warning(
    workdir, opened, caplog
):
    before = lines(workdir)
    with Lease(workdir):
        (found,) = evaluate_workdir(workdir, opened)
    assert found.metrics and lines(workdir) == before
    assert "metrics.jsonl does not get the metrics of step 4" in caplog.text


def test_imported_weights_which_have_no_run_are_evaluated(workdir, opened):
    for step in (2, 4):
        forged.edit(
            workdir / f"checkpoints/{step}",
            "meta.json",
            lambda meta: {name: value for name, value in meta.items() if name != "run"},
        )
    (workdir / "metrics.jsonl").unlink()
    (found,) = evaluate_workdir(workdir, opened)
    assert lines(workdir) == [{"step": 4, **found.metrics}]


def test_quantized_weights_are_evaluated(trained, opened, folder, tmp_path):
    quantize(trained, tmp_path / "int8")
    (found,) = evaluate_workdir(tmp_path / "int8", opened, context_length=48)
    text = (folder / "a.txt").read_text()
    (score,) = palmscale.load(tmp_path / "int8").score([text], context_length=48)
    assert found.metrics[NAME] == pytest.approx(score.bits_per_byte, rel=1e-4)


def test_a_long_evaluation_says_at_times_how_far_it_is():
    said = []
    tell = _told_at_times(said.append, seconds=0.0)
    tell("texts written", 1_000, 20_000)
    assert said == ["1,000 of 20,000 texts written."]
    tell = _told_at_times(said.append, seconds=1e9)
    tell("texts written", 2_000, 20_000)
    assert len(said) == 1
