"""One process of a job: how it joins the others."""

import contextlib
from collections.abc import Iterator

from palmscale.cluster.job import Job
from palmscale.cluster.join import Deadlines, ProcessPlace, join
from palmscale.cluster.last_line import LastLine
from palmscale.cluster.watchdog import Watchdog
from palmscale.observe import log
from palmscale.run import devices
from palmscale.run.ending import ENDED_FROM_OUTSIDE, Command, Ending, line_of
from palmscale.run.place import place_from


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
    with contextlib.ExitStack() as entered:
        last_line = None
        if place is not None and place.num_processes > 1:
            log.set_up(process_index=place.process_id, process_count=place.num_processes)
            last_line = entered.enter_context(
                LastLine(line_of(place.process_id, ENDED_FROM_OUTSIDE))
            )
        peers = entered.enter_context(join(place, deadlines, say=log.warn))
        ending = Ending(peers=peers, command=command, last_line=last_line)
        watchdog = Watchdog(
            peers,
            stall_seconds=deadlines.step_seconds,
            warn=log.warn,
            end=ending.leave,
            silent=ending.name_silent,
        )
        with watchdog:
            # A program of one process is not ended for it: a notebook outlives its runs.
            leave = None if command is None and peers.count == 1 else ending.tell_and_leave
            try:
                yield Job(peers=peers, watchdog=watchdog, deadlines=deadlines, leave=leave)
            except BaseException as error:
                if peers.count == 1:
                    raise
                ending.end(error)
