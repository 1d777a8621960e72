"""The last line of a process, and its exit code: its own reason, or that of the first to end."""

import os

import board
import jax
import pytest

from palmscale.cluster import watchdog
from palmscale.cluster.watchdog import said_by_others, say_why
from palmscale.errors import UserError
from palmscale.run.ending import Command, Ending


class Left(Exception):
    """The process has ended, with an exit code."""


class LastLine:
    line = None

    def set(self, line):
        self.line = line

    def close(self):
        self.line = None


@pytest.fixture
def end(monkeypatch, capfd):
    """Ends a process with an error, and returns its exit code and last line."""

    def leave(code):
        raise Left(code)

    def end(peers, error, command=None):
        with pytest.raises(Left) as left:
            Ending(peers=peers, command=command, last_line=LastLine()).end(error)
        return left.value.args[0], capfd.readouterr().err.splitlines()[-1]

    monkeypatch.setattr(watchdog, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(os, "_exit", leave)
    return end


def test_the_reason_of_the_first_to_end_is_said_once_by_all(end):
    first, second, third = board.peers(3)
    say_why(second, 2, "DIM = 3 is odd")
    reason = "palmscale: error: process 1 on b ended: DIM = 3 is odd"
    assert end(first, RuntimeError("a consequence")) == (2, f"[0] {reason}")
    assert end(third, RuntimeError("another one")) == (2, f"[2] {reason}")
    assert said_by_others(first) == (2, "process 1 on b ended: DIM = 3 is odd")


def test_a_mistake_is_each_processs_own(end):
    first, second = board.peers(2)
    say_why(second, 2, "DIM = 3 is odd")
    assert end(first, UserError("DIM = 3 is odd")) == (2, "[0] palmscale: error: DIM = 3 is odd")


def test_a_lost_host_is_named_and_a_restart_may_help(end):
    first, second = board.peers(2)
    second.publish("progress", "the last one")
    lost = jax.errors.JaxRuntimeError("Gloo: Connection reset by peer")
    code, line = end(first, lost)
    assert code == 75
    assert "process 1 on b no longer answers (" in line and str(lost) in line


def test_a_command_explains_the_error_that_ends_it(end):
    command = Command(explain=lambda code, message: f"{message} (code {code})")
    assert end(board.peers(2)[0], RuntimeError("a fault"), command)[1].endswith("a fault (code 1)")
