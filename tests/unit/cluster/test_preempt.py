"""A single process that is asked to end ends after its step; of several, see tests/e2e."""

import concurrent.futures
import os
import signal

from palmscale.cluster.agree import Peers
from palmscale.cluster.preempt import Preemption


def test_sigterm_is_noted_and_the_old_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with Preemption(Peers(["here"], index=0)) as preemption:
        assert not preemption.reached()
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.reached()
        assert preemption.reached()
    assert signal.getsignal(signal.SIGTERM) == before


def test_in_another_thread_signals_are_left_alone():
    before = signal.getsignal(signal.SIGTERM)

    def enter():
        with Preemption(Peers(["here"], index=0)) as preemption:
            return preemption.reached(), signal.getsignal(signal.SIGTERM) == before

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(enter).result() == (False, True)
