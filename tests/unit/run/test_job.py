"""Joining and leaving a job; several processes are in tests/e2e/test_many_processes.py."""

import board
import jax
import pytest

from palmscale.cluster.join import Deadlines
from palmscale.errors import HostLost, NotSaved, UserError
from palmscale.run import job as jobs
from palmscale.run.job import Command, joined


def test_a_process_of_its_own_leads_and_raises_what_goes_wrong():
    deadlines = Deadlines(step_seconds=5)
    with joined(None, simulated_devices=None, deadlines=deadlines) as job:
        assert job.leads and job.peers.count == 1 and job.deadlines == deadlines
    with pytest.raises(KeyError, match="a fault"):
        with joined(None, simulated_devices=None):
            raise KeyError("a fault")


def test_a_second_job_in_one_process_finds_the_devices_of_the_first():
    for _ in range(2):
        with joined(None, simulated_devices=jax.local_device_count()) as job:
            assert job.peers.count == 1


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("Training.steps=0 is wrong"), 2, "2: Training.steps=0 is wrong (set it so)"),
        (NotSaved("step 8 was not saved"), 1, "1: step 8 was not saved (set it so)"),
        (HostLost("process 0 is gone"), 75, "75: process 0 on a ended: a bad disk (set it so)"),
    ],
)
def test_an_error_in_a_job_of_several_is_explained_as_in_one_process(
    error, code, line, monkeypatch, capsys
):
    def left(code):
        raise SystemExit(code)

    monkeypatch.setattr("os._exit", left)
    first, second = board.peers(2)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    jobs.say_why(first, 75, "a bad disk")
    command = Command(explain=lambda code, message: f"{code}: {message} (set it so)")
    with pytest.raises(SystemExit) as caught:
        jobs._end(second, error, command)
    assert caught.value.code == code
    assert capsys.readouterr().err == f"[1] palmscale: error: {line}\n"
