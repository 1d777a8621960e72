"""Preemption: after a SIGTERM to any host, all hosts save at the same step and exit."""

import signal
from types import FrameType, TracebackType
from typing import Self

from jax.experimental import multihost_utils

from palmscale.cluster.agree import Peers


class Preemption:
    """Reports whether the job was asked to end. Enter it in the main thread, around training.

    With several processes, JAX's preemption service catches SIGTERM and chooses a future step for
    all of them. It swallows the signal, so `reached` must be called at every step.
    """

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._asked = False
        self._calls = 0

    def reached(self) -> bool:
        """Returns whether to save and exit now. Every process must call this equally often."""
        if self._peers.count > 1:
            self._calls += 1  # not the step number, which a rewind would reset
            return multihost_utils.reached_preemption_sync_point(self._calls)
        return self._asked

    def __enter__(self) -> Self:
        if self._peers.count == 1:
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._peers.count == 1:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
