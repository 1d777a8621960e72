"""A small run through the Python API, in one process."""

import dataclasses
import json
import math
import os
import shutil
import signal

import numpy as np
import pytest
from small_run import TRAINING

import palmscale
from palmscale.checkpoint import digest
from palmscale.checkpoint.policy import Retries
from palmscale.checkpoint.saving import Saving
from palmscale.checkpoint.warm_start import WarmStart
from palmscale.errors import NotSaved, UserError
from palmscale.run.train import Debugging
from palmscale.train.faults import Fault


def longer(run, steps):
    return dataclasses.replace(run, training=dataclasses.replace(run.training, steps=steps))


def test_training_returns_where_it_ended(result, workdir):
    assert (result.step, result.workdir, result.finished) == (4, workdir, True)
    assert 0 < result.metrics["eval_loss"] < 6 and math.isfinite(result.metrics["loss"])


def test_a_finished_run_has_nothing_to_do_and_more_steps_train_on(
    small_run, result, workdir, tmp_path
):
    workdir = shutil.copytree(workdir, tmp_path / "run")
    again = palmscale.train(small_run, workdir)
    assert (again.step, again.metrics, again.finished) == (4, {}, True)
    assert palmscale.train(longer(small_run, 5), workdir).step == 5


def test_another_run_is_refused_before_anything_is_compiled(small_run, result, workdir, caplog):
    other = dataclasses.replace(small_run, training=dataclasses.replace(small_run.training, seed=5))
    with caplog.at_level("INFO"), pytest.raises(UserError, match="seed: 0 -> 5"):
        palmscale.train(other, workdir)
    assert "Compiling" not in caplog.text


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
