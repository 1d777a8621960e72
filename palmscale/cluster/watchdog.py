"""A thread that ends the job when it cannot continue, and names the host at fault.

Every second or so it does three things. It publishes this process's position. If another process
has published why it is ending, it ends this one too. If there has been no progress for too long, it
prints all threads' stacks and the host that the others wait for, and ends the process. A process
that ends tells the others why; with JAX alone, they would wait for its heartbeat to time out.
"""

import contextlib
import faulthandler
import json
import math
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from palmscale.cluster.agree import Peers
from palmscale.exit_codes import RESTART_ME

_BOARD, _LAST_WORDS = "progress", "last words"
_POLL_SECONDS = 1.0
_SILENT_POLLS = 3
# JAX ends a process half a heartbeat timeout after another one stops, if that stopped just before
# its next heartbeat: the last line must name it earlier.
_FORESEEN_SILENT_POLLS = 1.5
_PROCESSES_SHOWN = 8
# If C++ code in another thread holds the GIL forever, only this timer still works.
_BACKSTOP = 1.5


class Watchdog:
    """Watches one process of a job while it is entered.

    Args:
        peers: all processes of the job.
        stall_seconds: longest time between two calls of `beat`; then the process exits with 75.
        warn: receives warnings for the user.
        end: ends the process immediately, with an exit code and a reason; called in a thread.
        silent: receives the processes that missed their last answer, every second; on
            process 0 only, which reads for all.
    """

    def __init__(
        self,
        peers: Peers,
        *,
        stall_seconds: float,
        warn: Callable[[str], None],
        end: Callable[[int, str], None],
        silent: Callable[[list[int]], None] = lambda processes: None,
    ) -> None:
        self._peers, self._stall_seconds = peers, stall_seconds
        self._warn, self._end, self._silent = warn, end, silent
        self._where, self._step = "the start", 0
        self._since: float | None = None
        self._timer_set = -math.inf
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def beat(self, where: str, step: int = 0) -> None:
        """Records what the process is about to wait for, such as `input`, and at which step."""
        self._where, self._step, self._since = where, step, time.monotonic()
        # Setting the timer takes longer than reading a small file.
        if self._since - self._timer_set > self._stall_seconds / 8:
            self._timer_set = self._since
            faulthandler.dump_traceback_later(
                self._stall_seconds * _BACKSTOP, exit=True, file=sys.__stderr__
            )

    def go_on(self) -> None:
        """Records progress without a change of position."""
        self.beat(self._where, self._step)

    def rest(self) -> None:
        """Suspends the stall timeout until the next beat."""
        self._since, self._timer_set = None, -math.inf
        faulthandler.cancel_dump_traceback_later()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.rest()
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        silence = Silence(_FORESEEN_SILENT_POLLS * _POLL_SECONDS)
        while not self._stopped.wait(min(_POLL_SECONDS, self._stall_seconds / 4)):
            # The service may be gone or slow; a stall of this process is detected without it.
            with contextlib.suppress(Exception):
                self._publish()
            if self._peers.index == 0:
                self._silent(silence.observe(self._peers.read(_BOARD), time.monotonic()))
            if words := said_by_others(self._peers):
                if self._age() > self._stall_seconds / 2:  # the others may have waited for this one
                    faulthandler.dump_traceback(file=sys.__stderr__, all_threads=True)
                faulthandler.cancel_dump_traceback_later()  # would end this process meanwhile
                linger(self._peers)
                self._finish(*words)
            elif self._age() > self._stall_seconds:
                self._stalled()

    def _publish(self) -> None:
        stands = {"where": self._where, "step": self._step, "age": self._age()}
        self._peers.publish(_BOARD, json.dumps({**stands, "time": time.time()}))

    def _age(self) -> float:
        return 0.0 if self._since is None else time.monotonic() - self._since

    def _stalled(self) -> None:
        """Reports the position of every process, and ends this one."""
        faulthandler.cancel_dump_traceback_later()
        standing = {i: json.loads(text) for i, text in self._peers.read(_BOARD).items()}
        behind = laggards(standing)[:4]
        who = " and ".join(map(self._peers.name, behind))
        told = f"the others wait for {who}" if who else "its stacks follow"
        self._warn(
            f"no progress for {self._stall_seconds:g} s: this process waits for {self._where} at"
            f" step {self._step}; {told}."
        )
        for index, stands in sorted(standing.items())[:_PROCESSES_SHOWN]:
            self._warn(
                f"{self._peers.name(index)} has waited for {stands['where']} at step"
                f" {stands['step']} for {stands['age']:.0f} s."
            )
        faulthandler.dump_traceback(file=sys.__stderr__, all_threads=True)
        where = standing[behind[0]]["where"] if behind else self._where
        message = (
            f"{who or self._peers.name(self._peers.index)} made no progress for"
            f" {self._stall_seconds:g} s, waiting for {where}; if that may take longer, raise"
            " Deadlines.step_seconds"
        )
        say_why(self._peers, RESTART_ME, message)
        self._finish(RESTART_ME, message)

    def _finish(self, code: int, message: str) -> None:
        self._stopped.set()
        self._end(code, message)


def laggards(standing: Mapping[int, Mapping[str, Any]]) -> list[int]:
    """Returns the processes that the others wait for: those furthest behind, if not all are equal.

    A process that waits for the devices waits for a host that has not started the step yet. That
    host is at an earlier step, or at the same step in its own code, the input.
    """
    if not standing:
        return []
    rank = {i: (s["step"], s["where"] != "input") for i, s in standing.items()}
    first = min(rank.values())
    found = sorted(i for i, at in rank.items() if at == first)
    return found if len(found) < len(standing) else []


class Silence:
    """Finds the processes that have not published anything new for some seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last: dict[int, tuple[str, float]] = {}

    def observe(self, board: Mapping[int, str], now: float) -> list[int]:
        """Returns the silent ones, given what is on the board at the time `now`, in seconds."""
        for index, text in board.items():
            if self._last.get(index, ("", now))[0] != text:
                self._last[index] = text, now
        return [i for i, (_, since) in sorted(self._last.items()) if now - since > self._seconds]


def say_why(peers: Peers, code: int, message: str) -> None:
    """Tells the other processes that this one is ending, with its exit code and the reason.

    Whoever ends because of that need not say it again: the others read the first reason.
    """
    peers.publish(_LAST_WORDS, json.dumps({"code": code, "message": message}))
    linger(peers)


def linger(peers: Peers) -> None:
    """Gives the others time to read the board where this process hosts it, before it ends."""
    if peers.count > 1 and peers.index == 0:
        time.sleep(_SILENT_POLLS * _POLL_SECONDS)


def said_by_others(peers: Peers) -> tuple[int, str] | None:
    """Returns the exit code and reason of another process that is ending; None if none is.

    The reason begins with the process at fault.
    """
    for index, text in sorted(peers.read(_LAST_WORDS).items()):
        if index != peers.index:
            words = json.loads(text)
            message = words["message"]
            if not message.startswith(tuple(map(peers.name, range(peers.count)))):
                message = f"{peers.name(index)} ended: {message}"
            return words["code"], message
    return None


def silent(peers: Peers) -> list[int]:
    """Returns the other processes that no longer publish their position; takes a few seconds."""
    before = peers.read(_BOARD)
    time.sleep(_SILENT_POLLS * _POLL_SECONDS)
    now = peers.read(_BOARD)
    return [i for i in now if i != peers.index and now[i] == before.get(i)]
