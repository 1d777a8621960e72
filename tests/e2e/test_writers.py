"""TensorBoard and Weights & Biases, offline, through kills; and when they fail."""

import random
import shutil

import tiny_run

WRITERS = {"TENSORBOARD": True, "WANDB_PROJECT": "x", "WANDB_MODE": "offline"}


def test_events_and_one_wandb_run_survive_a_kill(tiny, finished, tmp_path):
    workdir = tmp_path / "run"
    command = tiny(workdir, **WRITERS, SAVE_EVERY_STEPS=2)
    after_a_step = tiny_run.MOMENTS[2]
    assert tiny_run.kill_once(command, workdir, after_a_step, random.Random(0))
    run_id = (workdir / "wandb_run_id").read_text()
    done = tiny_run.run(*command)
    assert "failed" not in done.stderr
    tiny_run.assert_same_end(workdir, finished)
    assert (workdir / "wandb_run_id").read_text() == run_id
    runs = [path.name for path in workdir.glob("wandb/offline-run-*")]
    assert len(runs) == 2 and all(name.endswith(run_id) for name in runs)
    assert len(list(workdir.glob("tensorboard/events.out.tfevents.*"))) == 2


def test_a_writer_that_fails_warns_once_and_training_ends_well(tiny, finished, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    (workdir / "tensorboard").write_text("not a folder")
    done = tiny_run.run(*tiny(workdir, TENSORBOARD=True, TRAIN_STEPS=20))
    (warning,) = [line for line in done.stderr.splitlines() if "warning" in line]
    assert "TensorBoard failed and will be tried again" in warning
    assert [line["step"] for line in tiny_run.metrics(workdir)] == list(range(1, 21))
