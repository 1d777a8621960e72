"""A small run through the Python API, in one process."""

import dataclasses
import json
import math
import os
import shutil
import signal
import threading
import time

import forged
import numpy as np
import optax
import pytest
from small_run import ADAMW, TRAINING

import palmscale
from palmscale.checkpoint import digest
from palmscale.checkpoint.policy import Retries
from palmscale.checkpoint.saving import Saving
from palmscale.checkpoint.warm_start import WarmStart
from palmscale.cluster.join import Deadlines
from palmscale.data.sources import paths
from palmscale.errors import CorruptionError, NotSaved, UserError
from palmscale.observe.reporting import Reporting
from palmscale.run.train import Debugging
from palmscale.train.faults import Fault


def longer(run, steps):
    return dataclasses.replace(run, training=dataclasses.replace(run.training, steps=steps))


def on_cosine(run, steps):
    """The run with a schedule that ends with it, and all metrics at each step."""
    schedule = dataclasses.replace(ADAMW.learning_rate, warmup_steps=2, total_steps=steps)
    return dataclasses.replace(
        run,
        optimizer=dataclasses.replace(ADAMW, learning_rate=schedule),
        training=dataclasses.replace(run.training, steps=steps, rates_every_steps=1),
        reporting=Reporting(tensorboard=True, peak_flops_per_device=1e12),
    )


@pytest.fixture(scope="module")
def cosine_workdir(small_run, folder):
    """Of a run of five steps whose second is skipped."""
    workdir = folder / "cosine"
    palmscale.train(
        on_cosine(small_run, 5), workdir, debugging=Debugging(faults=(Fault("nan", 1),))
    )
    return workdir


def test_metrics_and_events_hold_learning_rate_wall_time_and_mfu(small_run, cosine_workdir):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = palmscale.history(cosine_workdir)
    schedule = on_cosine(small_run, 5).optimizer.learning_rate
    assert history["skipped"].tolist() == [0, 1, 0, 0, 0]
    rates = [float(schedule(count)) for count in (0, 1, 1, 2, 3)]  # the skipped one is no update
    np.testing.assert_allclose(history["learning_rate"], rates, rtol=1e-6)
    assert (np.diff(history["wall_time"]) >= 0).all()
    assert 0 <= time.time() - history["wall_time"][-1] < 3600
    assert (history["mfu"] > 0).all()

    events = EventAccumulator(str(cosine_workdir / "tensorboard")).Reload()
    assert "mfu" in events.Tags()["scalars"]
    told = events.Scalars("learning_rate")
    np.testing.assert_allclose([event.value for event in told], rates, rtol=1e-6)
    np.testing.assert_allclose([event.wall_time for event in told], history["wall_time"], atol=1e-3)


def test_a_schedule_that_would_change_with_the_steps_is_said_before_anything_is_compiled(
    small_run, cosine_workdir, caplog
):
    with caplog.at_level("INFO"), pytest.raises(UserError, match="made for 5 steps") as refused:
        palmscale.train(on_cosine(small_run, 6), cosine_workdir)
    assert "Compiling" not in caplog.text and "total_steps: 5 -> 6" in str(refused.value)


def test_a_run_continues_on_a_new_schedule_if_that_is_allowed(small_run, cosine_workdir, tmp_path):
    workdir = shutil.copytree(cosine_workdir, tmp_path / "run")
    longer = dataclasses.replace(
        on_cosine(small_run, 6), allow_changes=("optimizer.learning_rate.total_steps",)
    )
    assert palmscale.train(longer, workdir).step == 6
    last = palmscale.history(workdir)["learning_rate"][-1]
    assert last == pytest.approx(float(longer.optimizer.learning_rate(4)), rel=1e-6)


def test_training_returns_where_it_ended(result, workdir):
    assert (result.step, result.workdir, result.finished) == (4, workdir, True)
    assert 0 < result.metrics["eval_loss"] < 6 and math.isfinite(result.metrics["loss"])


def test_a_finished_run_has_nothing_to_do_and_more_steps_train_on(
    small_run, result, workdir, tmp_path, caplog
):
    workdir = shutil.copytree(workdir, tmp_path / "run")
    with caplog.at_level("INFO"):
        again = palmscale.train(small_run, workdir)
    assert "Compiling" not in caplog.text
    assert (again.step, again.metrics, again.finished) == (4, {}, True)
    assert palmscale.train(longer(small_run, 5), workdir).step == 5


def every_kind_of_state():
    """Keys, numbers that it changes, what needs the loss, and moments in bfloat16."""
    return optax.chain(
        optax.add_noise(0.01, 0.5, 0),
        optax.inject_hyperparams(optax.lion)(learning_rate=1e-3, mu_dtype="bfloat16"),
        optax.contrib.reduce_on_plateau(),
    )


def test_the_state_of_any_transformation_of_optax_is_saved_and_restored(small_run, tmp_path):
    run = dataclasses.replace(longer(small_run, 4), optimizer=every_kind_of_state())
    palmscale.train(run, tmp_path / "whole")
    resumed = shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    shutil.rmtree(resumed / "checkpoints/4")
    again = dataclasses.replace(run, optimizer=every_kind_of_state())
    assert palmscale.train(again, resumed).step == 4
    arrays = [
        json.loads((tmp_path / name / "checkpoints/4/MANIFEST.json").read_text())["arrays"]
        for name in ("whole", "resumed")
    ]
    assert arrays[0] == arrays[1] and "state/0/rng_key" in arrays[0]["optimizer"]


def test_another_run_is_refused_before_anything_is_compiled(small_run, result, workdir, caplog):
    other = dataclasses.replace(small_run, training=dataclasses.replace(small_run.training, seed=5))
    with caplog.at_level("INFO"), pytest.raises(UserError, match="seed: 0 -> 5"):
        palmscale.train(other, workdir)
    assert "Compiling" not in caplog.text


def test_text_that_cannot_be_read_to_its_end_is_named_and_ends_the_run(
    small_run, folder, monkeypatch, capsys
):
    class Hung(Exception):
        pass

    ended, codes = threading.Event(), []

    def hang(path, go_on):
        go_on()
        assert ended.wait(60)
        raise Hung

    def leave(code):
        codes.append(code)
        ended.set()

    monkeypatch.setattr(paths, "digest", hang)
    monkeypatch.setattr(os, "_exit", leave)
    run = dataclasses.replace(small_run, deadlines=Deadlines(step_seconds=1))
    with pytest.raises(Hung):
        palmscale.train(run, folder / "hung")
    assert codes == [75]
    said = capsys.readouterr().err
    assert f"made no progress for 1 s, waiting for the text {folder}/a.txt; if" in said
    assert not (folder / "hung/metrics.jsonl").exists()


def test_evaluations_of_ones_own_come_at_their_period(small_run, folder):
    class Norm:
        every_steps = 3

        def __call__(self, state):
            return {"my_metric": float(state.step)}

    result = palmscale.train(small_run, folder / "own", evaluations=[Norm()])
    mine = palmscale.history(folder / "own")["my_metric"]
    np.testing.assert_array_equal(mine, [np.nan, np.nan, 3, 4])
    assert result.metrics["my_metric"] == 4


def test_an_interrupted_run_releases_its_folder_and_resumes(small_run, folder):
    class Stop:
        every_steps = 3

        def __call__(self, state):
            if int(state.step) == 3:
                raise KeyboardInterrupt
            return {}

    with pytest.raises(KeyboardInterrupt):
        palmscale.train(small_run, folder / "stopped", evaluations=[Stop()])
    assert palmscale.train(small_run, folder / "stopped").finished
    assert palmscale.history(folder / "stopped")["step"].tolist() == [1, 2, 3, 4]


class Sends:
    """An evaluation that sends this process a signal."""

    every_steps = 3

    def __init__(self, number):
        self.number = number

    def __call__(self, state):
        os.kill(os.getpid(), self.number)
        return {}


def test_ctrl_c_saves_and_is_raised_with_the_step_that_is_on_the_disk(small_run, folder):
    run = dataclasses.replace(small_run, saving=Saving(every_steps=100))
    with pytest.raises(KeyboardInterrupt, match="saved step 4"):
        palmscale.train(longer(run, 9), folder / "ctrl_c", evaluations=[Sends(signal.SIGINT)])
    assert palmscale.load(folder / "ctrl_c").step == 4


def test_sigterm_saves_and_returns_an_unfinished_run(small_run, folder):
    run = longer(dataclasses.replace(small_run, saving=Saving(every_steps=100)), 9)
    result = palmscale.train(run, folder / "sigterm", evaluations=[Sends(signal.SIGTERM)])
    assert (result.step, result.finished) == (4, False)
    assert palmscale.load(folder / "sigterm").step == 4


def test_a_run_whose_last_state_is_not_saved_returns_nothing(small_run, folder, monkeypatch):
    saving = Saving(every_steps=2, retries=Retries(failures=1, wait_seconds=0))
    right = digest.write_manifest

    def full(directory, *arguments):
        if directory.name == "4":
            raise OSError(28, "No space left on device")
        right(directory, *arguments)

    monkeypatch.setattr("palmscale.checkpoint.digest.write_manifest", full)
    with pytest.raises(
        NotSaved, match="step 4 was not saved: .*No space.*good checkpoint is step 2"
    ):
        palmscale.train(dataclasses.replace(small_run, saving=saving), folder / "full")
    assert palmscale.load(folder / "full").step == 2


def test_a_warm_start_begins_with_the_other_runs_parameters(
    small_run, result, workdir, folder, caplog
):
    warm = dataclasses.replace(small_run, warm_start=WarmStart(workdir=str(workdir)))
    with caplog.at_level("INFO"):
        palmscale.train(longer(warm, 1), folder / "warm")
    assert "arrays of parameters from step" in caplog.text
    meta = palmscale.load(folder / "warm").meta
    assert meta["warm_start"]["workdir"] == str(workdir) and meta["warm_start"]["step"] == 4


def test_a_warm_start_that_does_not_match_is_refused_before_anything_is_compiled(
    small_run, result, workdir, folder, caplog
):
    caplog.set_level("INFO")
    warm = WarmStart(workdir=str(workdir), unused=("*/no_such_parameter",))
    for wrong, words in (
        (WarmStart(workdir=str(folder / "nowhere")), "has no checkpoint"),
        (warm, "no_such_parameter"),
    ):
        with pytest.raises(UserError, match=words):
            palmscale.train(dataclasses.replace(small_run, warm_start=wrong), folder / "cold")
    assert "Compiling" not in caplog.text


def test_a_damaged_last_step_is_trained_again_though_it_was_the_last(
    small_run, result, workdir, tmp_path
):
    workdir = shutil.copytree(workdir, tmp_path / "run")
    files = (workdir / "checkpoints/4").rglob("*")
    largest = max((path for path in files if path.is_file()), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    again = palmscale.train(small_run, workdir)
    assert (again.step, again.metrics.keys()) == (4, result.metrics.keys())


def test_an_injected_fault_is_survived(small_run, folder):
    debugging = Debugging(faults=(Fault("nan", 2),), step_log=str(folder / "steps.jsonl"))
    palmscale.train(small_run, folder / "faulty", debugging=debugging)
    assert palmscale.history(folder / "faulty")["skipped"].tolist() == [0, 0, 1, 0]
    lines = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3]


def test_a_vocabulary_that_the_model_has_no_ids_for_is_refused(small_run, folder):
    small = dataclasses.replace(small_run, model=small_run.model.clone(num_tokens=200))
    with pytest.raises(UserError, match="259 tokens and PaLM.num_tokens=200"):
        palmscale.train(small, folder / "small")


def test_the_package_train_is_a_function_too():
    assert palmscale.train.training.Training is type(TRAINING)
    assert palmscale.train.verb.__doc__.startswith("Trains a run")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("cursor.json", {"step": 3}, "step 4 holds the cursor of step 3"),
        ("cursor.json", {"next_row": 2**63 - 1}, "next_row is 9223372036854775807"),
        ("cursor.json", {"skips": [[5, 3]]}, "are not increasing"),
        ("meta.json", {"spike_history": {"detector": 3}}, "spike_history"),
    ],
    ids=str,
)
def test_a_run_does_not_resume_from_what_a_checkpoint_cannot_say(
    name, change, message, small_run, result, workdir, tmp_path
):
    copy = shutil.copytree(workdir, tmp_path / "run")
    forged.edit(copy / "checkpoints/4", name, lambda value: value | change)
    with pytest.raises(CorruptionError, match=message):
        palmscale.train(longer(small_run, 5), copy)
