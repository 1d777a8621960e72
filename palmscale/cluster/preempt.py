"""Preemption: after a SIGTERM to any host, all hosts save at the same step and exit."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Self

from jax.experimental import multihost_utils

from palmscale.cluster.agree import Peers


class Preemption:
    """Reports whether the job was asked to end. Enter it around training.

    A single process that trains in another thread than the main one leaves SIGTERM alone: Python
    handles signals in the main thread only.

    With several processes, JAX's preemption service catches SIGTERM and chooses a future step for
    all of them. It swallows the signal, so `reached` must be called at every step.
    """

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._asked = False
        self._calls = 0
        in_main_thread = threading.current_thread() is threading.main_thread()
        self._handles_signal = peers.count == 1 and in_main_thread

    def reached(self) -> bool:
        """Returns whether to save and exit now. Every process must call this equally often."""
        if self._peers.count > 1:
            self._calls += 1  # not the step number, which a rewind would reset
            return multihost_utils.reached_preemption_sync_point(self._calls)
        return self._asked

    def __enter__(self) -> Self:
        if self._handles_signal:
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._handles_signal:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
