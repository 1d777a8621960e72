"""Requests to end a job: after a SIGTERM or Ctrl-C, all hosts save at the same step and exit."""

import contextlib
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import NoReturn, Self

from jax.experimental import multihost_utils

from palmscale.cluster.agree import Peers
from palmscale.errors import AskedToEnd
from palmscale.exit_codes import INTERRUPTED, RESTART_ME

_NOTHING_TO_SAVE = RESTART_ME, "asked to end before training began; there is nothing to save"
_POLL_SECONDS = 1.0
_GRACE_SECONDS = 3.0  # for the main thread to act on a signal before the process is ended

_BEFORE, _TRAINING, _DONE = "before", "training", "done"


class Preemption:
    """Reports whether the job was asked to end. Enter it around a run.

    Before `training`, there is nothing to save: SIGTERM raises AskedToEnd, and Ctrl-C
    KeyboardInterrupt. While training, the first of them asks for a save, and `reached` tells after
    which step. Further SIGTERMs change nothing; a second Ctrl-C ends the run at once.

    Python runs signal handlers in the main thread, which may be compiling or waiting for devices,
    perhaps forever. A thread therefore watches as well, and ends the process by `leave` where the
    main thread cannot: at a second Ctrl-C, or if the main thread is still compiling a few seconds
    after a SIGTERM. Without `leave`, everything waits for the main thread.

    With several processes, JAX's preemption service catches SIGTERM, tells all processes, and
    chooses a future step for all of them. It swallows the signal, so `reached` must be called at
    every step. Ctrl-C is handed to that service as a SIGTERM.

    A run in another thread than the main one leaves the signals alone: Python accepts handlers in
    the main thread only. An ignored Ctrl-C (a background process of a shell) stays ignored.

    Args:
        peers: the processes of the job.
        leave: ends the process at once, with an exit code and a reason.
        say: receives a message for the user.
    """

    def __init__(
        self,
        peers: Peers,
        *,
        leave: Callable[[int, str], None] | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._peers, self._leave, self._say = peers, leave, say
        self._phase = _BEFORE
        self._asked = self._interrupted = False
        self._calls = 0
        self._before: dict[signal.Signals, signal._HANDLER] = {}

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C, rather than SIGTERM, asked this process to end."""
        return self._interrupted

    def reached(self) -> bool:
        """Returns whether to save and end now. Every process must call this equally often."""
        if self._peers.count > 1:
            self._calls += 1  # not the step number, which a rewind would reset
            return multihost_utils.reached_preemption_sync_point(self._calls)
        return self._asked

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """While it is entered, a request to end is noted instead of raised."""
        self._phase = _TRAINING
        try:
            yield
        finally:
            self._phase = _DONE
            if self._before:  # What is saved is saved: JAX's handler has no more use.
                signal.signal(signal.SIGTERM, self._on_sigterm)

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._before = {
            number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)
        }
        self._bytes, self._wakeup = socket.socketpair()
        self._wakeup.setblocking(False)
        # The number of each signal is written there at once, whatever the main thread does.
        self._fd_before = signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        if self._peers.count == 1:
            signal.signal(signal.SIGTERM, self._on_sigterm)
        if self._before[signal.SIGINT] != signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._on_sigint)
        self._thread = threading.Thread(target=self._watch, name="preemption", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._before:
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._fd_before)
        self._before = {}
        self._wakeup.close()
        self._thread.join()
        self._bytes.close()

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        if self._phase == _BEFORE:
            end_before_training()

    def _on_sigint(self, number: int, frame: FrameType | None) -> None:
        first, self._asked = not self._interrupted, True
        self._interrupted = True
        if self._phase != _TRAINING or not first:
            raise KeyboardInterrupt

    def _watch(self) -> None:
        """Does what cannot wait for the main thread; see the class."""
        interrupts, waiting_since = 0, None
        while True:
            if select.select([self._bytes], [], [], _POLL_SECONDS)[0]:
                told = self._bytes.recv(1)
                if not told:
                    return
                if told[0] in (signal.SIGTERM, signal.SIGINT):
                    waiting_since = waiting_since or time.monotonic()
                if told[0] == signal.SIGINT:
                    interrupts += 1
                    self._interrupt(interrupts)
            elif self._phase == _BEFORE:
                # The main thread takes note of a signal unless it is compiling.
                waits = waiting_since is not None and not self._asked
                if waits and time.monotonic() - waiting_since > _GRACE_SECONDS:
                    self._end(*((INTERRUPTED, "interrupted") if interrupts else _NOTHING_TO_SAVE))
                elif self._peers.is_preempted():
                    self._end(*_NOTHING_TO_SAVE)

    def _interrupt(self, number: int) -> None:
        if number > 1:
            self._end(INTERRUPTED, "interrupted again: ended at once, without saving")
        elif self._phase == _TRAINING:
            self._say("Interrupted: saving after this step. Ctrl-C again ends at once, unsaved.")
            if self._peers.count > 1:
                os.kill(os.getpid(), signal.SIGTERM)

    def _end(self, code: int, message: str) -> None:
        if self._leave is not None:
            self._leave(code, message)


def end_before_training(*signal: object) -> NoReturn:
    """Raises AskedToEnd, as the handler of a signal that comes before anything is to be saved."""
    raise AskedToEnd(_NOTHING_TO_SAVE[1])
