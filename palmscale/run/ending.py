"""How a process ends before its time: with one line on standard error, which the others learn."""

import contextlib
import dataclasses
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from palmscale.cluster.agree import Peers
from palmscale.cluster.last_line import LastLine
from palmscale.cluster.watchdog import linger, said_by_others, say_why, silent
from palmscale.exit_codes import MISTAKE, RESTART_ME, exit_code_and_line, is_lost_host

_RESTART = "; start the job again to resume from its last checkpoint"
ENDED_FROM_OUTSIDE = (
    "this process was ended from outside, or by JAX because another process is gone; see the other"
    f" logs{_RESTART}"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """The command that a process runs; without one, it runs someone's program.

    Attributes:
        explain: returns the line of an error by its exit code and message: the command knows how
            the fields that the message names are set.
        tracebacks: whether to print the traceback of an error.
    """

    explain: Callable[[int, str], str]
    tracebacks: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ending:
    """Ends this process of a job.

    Attributes:
        peers: the processes of the job.
        command: that this process runs; None: a program.
        last_line: printed where the process is ended from outside; None: it is a job of its own.
    """

    peers: Peers
    command: Command | None
    last_line: LastLine | None

    def end(self, error: BaseException) -> NoReturn:
        """Ends the process with the cause: what this one did, or the process that it lost."""
        code, message = exit_code_and_line(error)
        # A mistake is no consequence of another process's end.
        words = None if code == MISTAKE else said_by_others(self.peers)
        if words is None and is_lost_host(error):
            code = RESTART_ME
            # JAX may end this process while it asks who is silent.
            self._foresee(f"another process no longer answers ({message})")
            gone = " and ".join(self.peers.name(index) for index in silent(self.peers)[:4])
            message = f"{gone or 'another process'} no longer answers ({message})"
            words = said_by_others(self.peers)
        if self.command is not None and self.command.tracebacks:
            traceback.print_exception(error)
        if words is None:
            self.tell_and_leave(code, message)
        linger(self.peers)
        self.leave(*words)

    def name_silent(self, silent: Sequence[int]) -> None:
        """Makes the last line name who no longer answers; JAX may end this process soon."""
        gone = " and ".join(self.peers.name(index) for index in silent[:4])
        self._foresee(f"{gone} no longer answered{_RESTART}" if gone else ENDED_FROM_OUTSIDE)

    def _foresee(self, message: str) -> None:
        if self.last_line is not None:
            self.last_line.set(line_of(self.peers.index, message))

    def tell_and_leave(self, code: int, message: str) -> NoReturn:
        """Ends the process here and now, having told the others why."""
        say_why(self.peers, code, message)
        self.leave(code, message)

    def leave(self, code: int, message: str) -> NoReturn:
        """Ends the process here and now: JAX's own way out waits for processes that may be gone."""
        if self.last_line is not None:
            self.last_line.close()
        if self.command is not None:
            message = self.command.explain(code, message)
        alone = self.peers.count == 1
        line = f"palmscale: error: {message}" if alone else line_of(self.peers.index, message)
        # A full disk behind them must not keep the process alive.
        with contextlib.suppress(OSError):
            print(line, file=sys.stderr)
            sys.stderr.flush()
            sys.stdout.flush()
        os._exit(code)


def line_of(index: int, message: str) -> str:
    """Returns the last line of a process of a job of several."""
    return f"[{index}] palmscale: error: {message}"
