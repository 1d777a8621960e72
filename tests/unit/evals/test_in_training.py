"""Tasks of lm-eval during training: at their period, everywhere, and nothing else changes."""

import dataclasses
import json

import local_tasks
import numpy as np
import pytest
from small_run import on_text

import palmscale
from palmscale.checkpoint.warm_start import WarmStart
from palmscale.errors import UserError
from palmscale.evals.candidate import candidate_of
from palmscale.evals.in_training import LmEval
from palmscale.evals.lm_eval_tasks import load_tasks
from palmscale.model.lora import Lora
from palmscale.observe.reporting import Reporting
from palmscale.observe.writers import TensorBoard, WeightsAndBiases

METRIC = "eval/lambada_openai_local/perplexity"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def described(folder):
    tasks = local_tasks.write(folder / "tasks", documents=2, names=["lambada_openai"])
    return LmEval(
        tasks=("lambada_openai_local",),
        every_steps=2,
        include_path=str(tasks),
        context_length=64,
    )


@pytest.fixture(scope="module")
def logged():
    """What TensorBoard and Weights & Biases are given: (writer, step) to metrics."""
    return {}


@pytest.fixture(scope="module")
def workdir(folder, described, logged):
    """Of a run of four steps that evaluates at 2 and 4, with both metric writers."""
    run = on_text(
        folder,
        reporting=Reporting(tensorboard=True, wandb_project="x", wandb_mode="offline"),
        evaluations=(described,),
    )
    with pytest.MonkeyPatch.context() as patched:
        for kind in (TensorBoard, WeightsAndBiases):
            note = lambda of, step, metrics: logged.update({(type(of), step): metrics})  # noqa: E731
            patched.setattr(kind, "write", note)
        palmscale.train(run, folder / "run")
    return folder / "run"


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_metrics_appear_at_the_period_in_metrics_jsonl_and_both_writers(workdir, logged):
    found = {line["step"]: line[METRIC] for line in lines(workdir) if METRIC in line}
    assert list(found) == [2, 4]
    for kind in (TensorBoard, WeightsAndBiases):
        told = {step: of.get(METRIC) for (writer, step), of in logged.items() if writer is kind}
        assert told == {step: found.get(step) for step in range(1, 5)}


def test_they_are_those_of_the_checkpoint(workdir, described):
    tasks = load_tasks(described.tasks, include_path=described.include_path)
    for line in lines(workdir)[1::2]:
        trained = palmscale.load(workdir, line["step"])
        found = tasks(candidate_of(trained, context_length=64))
        assert found[METRIC] == pytest.approx(line[METRIC], rel=1e-5)


def test_training_is_the_same_bit_for_bit_without_them(workdir, folder):
    other = palmscale.train(on_text(folder), folder / "plain").workdir
    for name in ("loss", "grad_norm", "param_norm"):
        assert [line[name] for line in lines(other)] == [line[name] for line in lines(workdir)]
    one, two = (palmscale.load(of).params["embedding"] for of in (workdir, other))
    np.testing.assert_array_equal(one, two)


def test_they_may_change_when_a_run_resumes_and_the_checkpoint_describes_them(
    workdir, folder, described
):
    run = on_text(folder, evaluations=(dataclasses.replace(described, every_steps=1),))
    training = dataclasses.replace(run.training, steps=5)
    result = palmscale.train(dataclasses.replace(run, training=training), workdir)
    assert METRIC in result.metrics
    meta = palmscale.load(workdir).meta
    assert meta["run"]["evaluations"][0]["class"] == "LmEval"
    assert "evaluations" not in meta["identity"]


def test_a_run_that_trains_adapters_is_evaluated_with_them(workdir, folder, described):
    run = on_text(
        folder,
        trainable=Lora(rank=2, alpha=64.0, targets=("query", "down")),
        warm_start=WarmStart(workdir=str(workdir)),
        evaluations=(described,),
    )
    result = palmscale.train(run, folder / "adapters")
    tasks = load_tasks(described.tasks, include_path=described.include_path)
    trained = palmscale.load(folder / "adapters")
    found = tasks(candidate_of(trained, context_length=64))
    assert found[METRIC] == pytest.approx(result.metrics[METRIC], rel=1e-5)


def test_a_mistake_is_told_before_the_first_step(folder, described):
    wrong = dataclasses.replace(described, include_path=str(folder / "none"))
    with pytest.raises(UserError, match="include_path=.*is not a folder"):
        palmscale.train(on_text(folder, evaluations=(wrong,)), folder / "wrong")
    assert not (folder / "wrong/metrics.jsonl").exists()


@pytest.mark.parametrize(
    "fields", [{"tasks": ()}, {"every_steps": 0}, {"limit": 0}, {"context_length": 1}]
)
def test_a_value_out_of_range_is_told_by_its_name(fields):
    (name,) = fields
    with pytest.raises(UserError, match=rf"LmEval\.{name}"):
        LmEval(**{"tasks": ("a",)} | fields)
