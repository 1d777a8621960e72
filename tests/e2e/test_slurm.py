"""launch/slurm.sbatch, run by a real Slurm of one node on this machine."""

import os
import pathlib
import sys
import time

import pytest
import small_slurm
import tiny_job
import tiny_run

SCRIPT = tiny_run.CHECKOUT / "launch/slurm.sbatch"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    if os.getuid() != 0 or small_slurm.absent():
        pytest.skip("Slurm needs root, slurm-wlm and munge")
    with small_slurm.running(tmp_path_factory.mktemp("slurm")) as slurm:
        yield slurm


def submit(slurm, folder, *arguments):
    """The number of a job of two tasks whose working folder and logs are `folder`."""
    (folder / "configs").symlink_to(tiny_run.CHECKOUT / "configs")
    told = slurm.command(
        "sbatch",
        "--parsable",
        "--nodes=1",
        "--ntasks-per-node=2",
        "--time=60",  # --signal comes ten minutes before it is over
        SCRIPT,
        *arguments,
        cwd=folder,
        env={
            "PALMSCALE_ENV": str(pathlib.Path(sys.executable).parents[1]),
            "PALMSCALE_MAX_RESTARTS": "2",
        },
    )
    return told.strip()


def test_a_preempted_job_saves_is_queued_again_and_ends(slurm, tiny, finished, tmp_path):
    workdir = tmp_path / "run dir"
    command = tiny(
        workdir, **tiny_job.QUICK, SIMULATED_DEVICES=1, DATA=2, MODEL_PARALLEL=1, TRAIN_STEPS=60
    )
    job = submit(slurm, tmp_path, *command)
    end = time.monotonic() + 120
    while tiny_job.steps_done(workdir) < 3:
        assert slurm.job(job)["JobState"] in ("PENDING", "RUNNING"), slurm.logs()
        assert time.monotonic() < end, (slurm.job(job), slurm.logs())
        time.sleep(0.05)
    slurm.command("scancel", "--signal=TERM", job)  # As --signal does: the tasks, not the script.
    ended = slurm.wait(job)
    told = (tmp_path / f"palmscale-{job}.log").read_text()
    assert ended["JobState"] == "COMPLETED" and ended["Restarts"] == "1", told
    assert "exit code 75" in told and "start 2 on localhost" in told and "done" in told
    log = (tmp_path / f"palmscale-{job}/process_0.log").read_text()
    (resumed,) = [line for line in log.splitlines() if "Resuming after step" in line]
    assert "after step 60" not in resumed
    assert tiny_job.steps_done(workdir) == 60 and tiny_run.steps(workdir)[-1] == 60


def test_a_mistake_is_not_queued_again(slurm, tmp_path):
    job = submit(slurm, tmp_path, "trian", "it's")
    ended = slurm.wait(job)
    assert ended["JobState"] == "FAILED" and ended["Restarts"] == "0"
    assert ended["ExitCode"] == "2:0"
    told = (tmp_path / f"palmscale-{job}.log").read_text()
    assert "unknown command trian; did you mean train?" in told
