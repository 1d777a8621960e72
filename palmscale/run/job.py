"""One process of a job: how it joins the others, and how it ends."""

import contextlib
import functools
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import NoReturn

from palmscale.cluster.agree import Peers
from palmscale.cluster.job import Job
from palmscale.cluster.join import Deadlines, ProcessPlace, join
from palmscale.cluster.last_line import LastLine
from palmscale.cluster.watchdog import Watchdog, linger, said_by_others, say_why, silent
from palmscale.exit_codes import MISTAKE, RESTART_ME, exit_code_and_line, is_lost_host
from palmscale.observe import log
from palmscale.run import devices
from palmscale.run.place import place_from

_RESTART = "; start the job again to resume from its last checkpoint"
_ENDED = (
    "this process was ended from outside, or by JAX because another process is gone; see the other"
    f" logs{_RESTART}"
)


@contextlib.contextmanager
def joined(
    place: ProcessPlace | None,
    *,
    simulated_devices: int | None,
    deadlines: Deadlines = Deadlines(),
    debug: bool = False,
) -> Iterator[Job]:
    """Starts JAX's devices and joins the job that this process belongs to.

    An exception in a job of several processes ends the process here: it tells the others why, and
    does not wait for them. With `debug` it prints the traceback.

    Args:
        place: coordinator and rank; None: as the environment tells, see `place_from`.
        simulated_devices: CPU devices to simulate; None: the machine's own.
        deadlines: of the processes for one another.
        debug: whether to print tracebacks.
    """
    devices.start(simulated_devices)
    place = place or place_from(timeout_seconds=deadlines.join_seconds)
    with contextlib.ExitStack() as entered:
        last_line = None
        if place is not None and place.num_processes > 1:
            log.set_up(process_index=place.process_id, process_count=place.num_processes)
            last_line = entered.enter_context(LastLine(_line(place.process_id, _ENDED)))
        peers = entered.enter_context(join(place, deadlines, say=log.warn))
        end = functools.partial(_leave, peers, last_line)
        watchdog = Watchdog(
            peers,
            stall_seconds=deadlines.step_seconds,
            warn=log.warn,
            end=end,
            silent=functools.partial(_name_silent, peers, last_line),
        )
        with watchdog:
            try:
                yield Job(peers=peers, watchdog=watchdog, deadlines=deadlines)
            except BaseException as error:
                if last_line is None:
                    raise
                _end(peers, last_line, error, debug=debug)


def _name_silent(peers: Peers, last_line: LastLine | None, silent: Sequence[int]) -> None:
    """Makes the last line name the processes that no longer answer; JAX may end this one soon."""
    if last_line is not None:
        gone = " and ".join(peers.name(index) for index in silent[:4])
        last_line.set(
            _line(peers.index, f"{gone} no longer answered{_RESTART}" if gone else _ENDED)
        )


def _end(peers: Peers, last_line: LastLine, error: BaseException, *, debug: bool) -> NoReturn:
    """Ends the process with the cause: what this one did, or the process that it lost."""
    code, message = exit_code_and_line(error)
    # A mistake is no consequence of another process's end.
    words = None if code == MISTAKE else said_by_others(peers)
    if words is None and is_lost_host(error):
        code = RESTART_ME
        # JAX may end this process while it asks who is silent.
        last_line.set(_line(peers.index, f"another process no longer answers ({message})"))
        gone = " and ".join(peers.name(index) for index in silent(peers)[:4])
        message = f"{gone or 'another process'} no longer answers ({message})"
        words = said_by_others(peers)
    if debug:
        traceback.print_exception(error)
    if words is None:
        say_why(peers, code, message)
    else:
        code, message = words
        linger(peers)
    _leave(peers, last_line, code, message)


def _leave(peers: Peers, last_line: LastLine | None, code: int, message: str) -> NoReturn:
    """Ends the process here and now: JAX's own way out waits for processes that may be gone."""
    if last_line is not None:
        last_line.close()
        message = _line(peers.index, message)
    else:
        message = f"palmscale: error: {message}"
    print(message, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _line(index: int, message: str) -> str:
    return f"[{index}] palmscale: error: {message}"
