"""One process of a job: how it joins the others, and how it ends."""

import contextlib
import dataclasses
import functools
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

from palmscale.cluster.agree import Peers
from palmscale.cluster.job import Job
from palmscale.cluster.join import Deadlines, ProcessPlace, join
from palmscale.cluster.watchdog import Watchdog, said_by_others, say_why, silent
from palmscale.errors import AskedToEnd, NotSaved, UserError
from palmscale.exit_codes import RESTART_ME, exit_code_and_line, is_lost_host
from palmscale.observe import log
from palmscale.run import devices
from palmscale.run.place import place_from

# Errors that say what happened, on every process; any other may follow from another's end.
_ITS_OWN_CAUSE = AskedToEnd, NotSaved, UserError


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


@contextlib.contextmanager
def joined(
    place: ProcessPlace | None,
    *,
    simulated_devices: int | None,
    deadlines: Deadlines = Deadlines(),
    command: Command | None = None,
) -> Iterator[Job]:
    """Starts JAX's devices and joins the job that this process belongs to.

    An exception in a job of several processes ends the process here: it tells the others why, and
    does not wait for them.

    Args:
        place: coordinator and rank; None: as the environment tells, see `place_from`.
        simulated_devices: CPU devices to simulate; None: the machine's own.
        deadlines: of the processes for one another.
        command: that this process runs, which explains errors; None: a program.
    """
    devices.start(simulated_devices)
    place = place or place_from(timeout_seconds=deadlines.join_seconds)
    if place is not None:
        log.set_up(process_index=place.process_id, process_count=place.num_processes)
    with join(place, deadlines, say=log.warn) as peers:
        with Watchdog(
            peers,
            stall_seconds=deadlines.step_seconds,
            warn=log.warn,
            end=functools.partial(_leave, peers, command),
        ) as watchdog:
            try:
                yield Job(peers=peers, watchdog=watchdog, deadlines=deadlines)
            except BaseException as error:
                if peers.count == 1:
                    raise
                _end(peers, error, command)


def leave(job: Job, command: Command | None, code: int, message: str) -> NoReturn:
    """Ends the process here and now with an exit code and a reason, which the others learn."""
    say_why(job.peers, code, message)
    _leave(job.peers, command, code, message)


def _end(peers: Peers, error: BaseException, command: Command | None) -> NoReturn:
    """Ends the process with the cause: what this one did, or the process that it lost."""
    code, message = exit_code_and_line(error)
    if isinstance(error, _ITS_OWN_CAUSE):
        pass
    elif words := said_by_others(peers):
        code, message = words
    elif is_lost_host(error):
        gone = " and ".join(peers.name(index) for index in silent(peers)[:4])
        code, message = said_by_others(peers) or (
            RESTART_ME,
            f"{gone or 'another process'} no longer answers ({message})",
        )
    if command is not None and command.tracebacks:
        traceback.print_exception(error)
    say_why(peers, code, message)
    _leave(peers, command, code, message)


def _leave(peers: Peers, command: Command | None, code: int, message: str) -> NoReturn:
    """Ends the process here and now: JAX's own way out waits for processes that may be gone."""
    prefix = f"[{peers.index}] " if peers.count > 1 else ""
    line = message if command is None else command.explain(code, message)
    with contextlib.suppress(OSError):  # a full disk behind them must not keep the process alive
        print(f"{prefix}palmscale: error: {line}", file=sys.stderr)
        sys.stderr.flush()
        sys.stdout.flush()
    os._exit(code)
