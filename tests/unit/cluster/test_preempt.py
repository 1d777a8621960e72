"""A single process that is asked to end does so in order; of several, see tests/e2e."""

import concurrent.futures
import ctypes
import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest

from palmscale.cluster import preempt
from palmscale.cluster.agree import Peers
from palmscale.cluster.preempt import Preemption
from palmscale.errors import AskedToEnd

HERE = Peers(["here"], index=0)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(preempt, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(preempt, "_GRACE_SECONDS", 0.02)


def send(number):
    os.kill(os.getpid(), number)


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_sigterm_is_noted_and_the_old_handlers_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with Preemption(HERE) as preemption, preemption.training():
        assert not preemption.reached()
        send(signal.SIGTERM)
        assert preemption.reached()
        send(signal.SIGTERM)
        assert preemption.reached() and not preemption.interrupted
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_after_training_a_sigterm_changes_nothing_any_more():
    with Preemption(HERE) as preemption:
        with preemption.training():
            pass
        send(signal.SIGTERM)
        time.sleep(0)


def test_before_training_there_is_nothing_to_save_and_a_sigterm_asks_for_a_restart():
    with Preemption(HERE), pytest.raises(AskedToEnd, match="nothing to save") as caught:
        send(signal.SIGTERM)
        time.sleep(10)
    assert caught.value.code == 75


def test_ctrl_c_before_training_interrupts():
    with Preemption(HERE), pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)
        time.sleep(10)


def test_the_first_ctrl_c_asks_for_a_save_and_the_second_interrupts():
    said = []
    with Preemption(HERE, say=said.append) as preemption, pytest.raises(KeyboardInterrupt):
        with preemption.training():
            send(signal.SIGINT)
            until(lambda: said)
            assert preemption.reached() and preemption.interrupted
            send(signal.SIGINT)
            time.sleep(10)
    assert said == ["Interrupted: saving after this step. Ctrl-C again ends at once, unsaved."]


class Stuck:
    """A main thread inside native code, which `leave` frees in place of ending the process."""

    def __init__(self):
        self.left = []
        self._c, self._mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
        self._c.pthread_mutex_lock(self._mutex)

    def wait(self):
        self._c.pthread_mutex_lock(self._mutex)

    def leave(self, code, message):
        self.left.append((code, message))
        self._c.pthread_mutex_unlock(self._mutex)


@pytest.mark.parametrize(
    ("number", "code", "error"),
    [(signal.SIGTERM, 75, AskedToEnd), (signal.SIGINT, 130, KeyboardInterrupt)],
)
def test_a_main_thread_that_compiles_is_not_waited_for_long(number, code, error, quick):
    stuck = Stuck()
    with Preemption(HERE, leave=stuck.leave), pytest.raises(error):
        threading.Timer(0.2, send, [number]).start()
        stuck.wait()
        time.sleep(10)
    assert stuck.left[0][0] == code


def test_a_second_ctrl_c_ends_a_run_whose_devices_stand_still():
    stuck, said = Stuck(), []

    def say(text):
        said.append(text)
        send(signal.SIGINT)

    with Preemption(HERE, leave=stuck.leave, say=say) as preemption:
        with pytest.raises(KeyboardInterrupt), preemption.training():
            send(signal.SIGINT)
            stuck.wait()
            time.sleep(10)
    assert said and stuck.left == [(130, "interrupted again: ended at once, without saving")]


def test_a_job_that_hears_of_a_sigterm_before_training_ends(quick):
    left = []
    peers = SimpleNamespace(count=2, is_preempted=lambda: not left)
    with Preemption(peers, leave=lambda *why: left.append(why)):
        until(lambda: left)
    assert left[0][0] == 75 and "nothing to save" in left[0][1]


def test_an_ignored_ctrl_c_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Preemption(HERE):
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_signals_are_left_alone():
    before = signal.getsignal(signal.SIGTERM)

    def enter():
        with Preemption(HERE) as preemption, preemption.training():
            return preemption.reached(), signal.getsignal(signal.SIGTERM) == before

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(enter).result() == (False, True)
