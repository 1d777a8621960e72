"""The watchdog: who the others wait for, why a process ends, and that it does end."""

import json
import threading
import time

import board
import pytest

from palmscale.cluster import watchdog
from palmscale.cluster.watchdog import (
    Silence,
    Watchdog,
    laggards,
    said_by_others,
    say_why,
    silent,
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(watchdog, "_POLL_SECONDS", 0.05)


class Watched:
    """A watchdog whose process does not end: it notes the exit code."""

    def __init__(self, peers, stall_seconds=100.0):
        self.warnings, self.codes, self.over = [], [], threading.Event()
        self.silent = []
        self.dog = Watchdog(
            peers,
            stall_seconds=stall_seconds,
            warn=self.warnings.append,
            end=self._end,
            silent=self.silent.append,
        )

    def _end(self, code, message):
        self.codes.append(code)
        self.reason = message
        self.over.set()


def stands(step, where="devices"):
    return {"step": step, "where": where, "age": 1.0}


@pytest.mark.parametrize(
    ("standing", "found"),
    [
        ({0: stands(7), 1: stands(6), 2: stands(7)}, [1]),
        ({0: stands(7), 1: stands(7, "input"), 2: stands(7)}, [1]),
        ({0: stands(7), 1: stands(6, "input"), 2: stands(6)}, [1]),
        ({0: stands(7, "saving"), 1: stands(7, "saving")}, []),
        ({0: stands(7, "input")}, []),
        ({}, []),
    ],
)
def test_the_others_wait_for_the_earliest_or_for_whoever_is_in_its_own_code(standing, found):
    assert laggards(standing) == found


def test_standing_still_ends_the_process_and_names_the_host(capfd):
    first, second = board.peers(2)
    second.publish("progress", json.dumps(stands(3, "input")))
    watched = Watched(first, stall_seconds=0.3)
    with watched.dog as dog:
        dog.beat("devices", 4)
        assert watched.over.wait(10)
    assert watched.codes == [75]
    assert "waits for devices at step 4; the others wait for process 1 on b" in watched.warnings[0]
    assert any("process 1 on b has waited for input at step 3" in line for line in watched.warnings)
    assert said_by_others(second) == (
        75,
        "process 1 on b made no progress for 0.3 s, waiting for input; if"
        " that may take longer, raise Deadlines.step_seconds",
    )
    assert "most recent call first" in capfd.readouterr().err


def test_beats_keep_it_alive_and_rest_lets_it_take_any_time():
    (alone,) = board.peers(1)
    watched = Watched(alone, stall_seconds=0.4)
    with watched.dog as dog:
        time.sleep(0.6)  # not yet started
        for step in range(4):
            dog.beat("devices", step)
            time.sleep(0.15)
            dog.go_on()
        dog.rest()
        time.sleep(0.6)
    assert watched.codes == []


def test_another_processs_end_ends_this_one_with_its_code_and_reason():
    first, second = board.peers(2)
    watched = Watched(first)
    with watched.dog:
        say_why(second, 2, "DIM = 3 is odd")
        assert watched.over.wait(10)
    assert watched.codes == [2]
    assert watched.reason == "process 1 on b ended: DIM = 3 is odd"


def test_ones_own_last_words_are_not_anothers():
    first, second = board.peers(2)
    say_why(first, 1, "a bad disk")
    assert said_by_others(first) is None
    assert said_by_others(second) == (1, "process 0 on a ended: a bad disk")


def test_who_no_longer_publishes_is_silent():
    first, second, third = board.peers(3)
    second.publish("progress", "the last one")
    alive = Watched(third)
    with alive.dog:
        time.sleep(0.2)
        assert silent(first) == [1]


def test_silence_is_a_board_that_does_not_change():
    silence = Silence(3)
    assert silence.observe({0: "a", 1: "a"}, 10) == []
    assert silence.observe({0: "b", 1: "a"}, 13) == []
    assert silence.observe({0: "c", 1: "a"}, 14) == [1]
    assert silence.observe({0: "c", 1: "b"}, 18) == [0]
    assert silence.observe({}, 30) == [0, 1]


def test_process_0_watches_for_all_and_tells_who_is_silent():
    first, second = board.peers(2)
    second.publish("progress", "the last one")
    leader, other = Watched(first), Watched(second)
    with leader.dog:
        end = time.monotonic() + 20
        while [1] not in leader.silent:
            assert time.monotonic() < end
            time.sleep(0.02)
    with other.dog:
        time.sleep(0.2)
    assert other.silent == []


def test_process_0_lets_the_others_read_why_a_third_ended():
    first, second, third = board.peers(3)
    watched = Watched(first)
    say_why(second, 2, "a bad disk")
    began = time.monotonic()
    with watched.dog:
        assert watched.over.wait(10)
    assert time.monotonic() - began >= 3 * watchdog._POLL_SECONDS
    assert said_by_others(third) == (2, "process 1 on b ended: a bad disk")
