"""One process of a job: where it stands, how it joins the others, and how it ends."""

import argparse
import contextlib
import dataclasses
import functools
import os
import sys
import traceback
from collections.abc import Iterator
from typing import NoReturn

from palmscale.cli import devices
from palmscale.cli.outcome import RESTART_ME, is_lost_host, outcome
from palmscale.cluster.agree import Peers
from palmscale.cluster.join import Deadlines, Place, detect, join
from palmscale.cluster.watchdog import Watchdog, said_by_others, say_why, silent
from palmscale.errors import UserError
from palmscale.observe import log

_ENVIRONMENT = {
    "coordinator": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """The processes that work together, and the watchdog over this one."""

    peers: Peers
    watchdog: Watchdog
    deadlines: Deadlines

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and prints for all."""
        return self.peers.index == 0


@contextlib.contextmanager
def joined(
    args: argparse.Namespace, *, simulated_devices: int | None, deadlines: Deadlines = Deadlines()
) -> Iterator[Job]:
    """Starts JAX's devices and joins the job that this process belongs to, if there is one.

    An exception in a job of several processes ends the process here: it tells the others why, and
    does not wait for them.
    """
    devices.start(simulated_devices)
    place = given_place(args) or detect(deadlines.join_seconds)
    if place is not None:
        log.set_up(process_index=place.process_id, process_count=place.num_processes)
    with join(place, deadlines, say=log.warn) as peers:
        with Watchdog(
            peers,
            stall_seconds=deadlines.step_seconds,
            warn=log.warn,
            end=functools.partial(_leave, peers),
        ) as watchdog:
            try:
                yield Job(peers=peers, watchdog=watchdog, deadlines=deadlines)
            except BaseException as error:
                if peers.count == 1:
                    raise
                _end(peers, error, debug=args.debug)


def given_place(args: argparse.Namespace) -> Place | None:
    """Returns the place that the flags give, or else JAX's environment variables; None: neither.

    Raises:
        UserError: they give it in part, or it cannot be.
    """
    flags = {name: getattr(args, name) for name in _ENVIRONMENT}
    if all(value is None for value in flags.values()):
        flags = {name: os.environ.get(variable) for name, variable in _ENVIRONMENT.items()}
        # JAX reads the address alone as well: of a cluster that tells the rest.
        if flags["num_processes"] is None and flags["process_id"] is None:
            return None
    if missing := [name for name, value in flags.items() if value is None]:
        raise UserError(
            f"--{missing[0]} is missing - a process is known by --coordinator, --num_processes and"
            f" --process_id together - give all three, or {', '.join(_ENVIRONMENT.values())}"
        )
    try:
        count, index = int(flags["num_processes"]), int(flags["process_id"])
    except ValueError:
        raise UserError(
            f"num_processes={flags['num_processes']!r} and process_id={flags['process_id']!r} - "
            "both must be whole numbers - change the flag or the environment variable"
        ) from None
    return Place(coordinator=flags["coordinator"], num_processes=count, process_id=index)


def _end(peers: Peers, error: BaseException, *, debug: bool) -> NoReturn:
    """Ends the process with the cause: what this one did, or the process that it lost."""
    code, message = outcome(error, debug=debug)
    if words := said_by_others(peers):
        code, message = words
    elif is_lost_host(error):
        gone = " and ".join(peers.name(index) for index in silent(peers)[:4])
        code, message = said_by_others(peers) or (
            RESTART_ME,
            f"{gone or 'another process'} no longer answers ({message})",
        )
    if debug:
        traceback.print_exception(error)
    say_why(peers, code, message)
    _leave(peers, code, message)


def _leave(peers: Peers, code: int, message: str) -> NoReturn:
    """Ends the process here and now: JAX's own way out waits for processes that may be gone."""
    prefix = f"[{peers.index}] " if peers.count > 1 else ""
    print(f"{prefix}palmscale: error: {message}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
