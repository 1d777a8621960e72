"""Preemption: a SIGTERM to any host makes all of them save at the same step, and end."""

import signal
from types import FrameType, TracebackType
from typing import Self

from jax.experimental import multihost_utils

from palmscale.cluster.agree import Peers


class Preemption:
    """Tells whether the job was asked to end; entered by the main thread, around the training.

    With several processes JAX's preemption service catches SIGTERM and works out a step that all
    of them have yet to come to; it swallows the signal, so `reached` is to be asked at every step.
    """

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._asked = False
        self._calls = 0

    def reached(self) -> bool:
        """Returns whether to save and end now; every process asks as often, and is told alike."""
        if self._peers.count > 1:
            self._calls += 1  # and not the step, which a rewind turns back
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
