"""A single process that is asked to end ends after its step; of several, see tests/e2e."""

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
