"""Joining and leaving a job; several processes are in tests/e2e/test_many_processes.py."""

import board
import jax
import pytest

from palmscale.cluster import watchdog
from palmscale.cluster.join import Deadlines
from palmscale.cluster.watchdog import said_by_others, say_why
from palmscale.errors import UserError
from palmscale.run import job
from palmscale.run.job import joined


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


class Left(Exception):
    """The process has ended, with exit code and message."""


@pytest.fixture
def end(monkeypatch):
    """Ends a process with an error, and returns its exit code and message."""

    class LastLine:
        def set(self, line):
            self.line = line

    def leave(peers, last_line, code, message):
        raise Left(code, message)

    def end(peers, error):
        with pytest.raises(Left) as left:
            job._end(peers, LastLine(), error, debug=False)
        return left.value.args

    monkeypatch.setattr(watchdog, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(job, "_leave", leave)
    return end


def test_the_reason_of_the_first_to_end_is_said_once_by_all(end):
    first, second, third = board.peers(3)
    say_why(second, 2, "DIM = 3 is odd")
    reason = (2, "process 1 on b ended: DIM = 3 is odd")
    assert end(first, RuntimeError("a consequence")) == reason
    assert end(third, RuntimeError("another one")) == reason == said_by_others(first)


def test_a_mistake_is_each_processs_own(end):
    first, second = board.peers(2)
    say_why(second, 2, "DIM = 3 is odd")
    assert end(first, UserError("DIM = 3 is odd")) == (2, "DIM = 3 is odd")


def test_a_lost_host_is_named_and_a_restart_may_help(end):
    first, second = board.peers(2)
    second.publish("progress", "the last one")
    lost = jax.errors.JaxRuntimeError("Gloo: Connection reset by peer")
    code, message = end(first, lost)
    assert code == 75
    assert message.startswith("process 1 on b no longer answers (") and str(lost) in message
