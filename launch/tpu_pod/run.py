"""Running a job to its end: started on every worker, watched, and resumed after a preemption."""

from __future__ import annotations

import pathlib
import time

from tpu_pod import job, request, ship, workers
from tpu_pod.accelerators import TpuType
from tpu_pod.cloud import Cloud
from tpu_pod.errors import Fault, Mistake, say
from tpu_pod.job import Row
from tpu_pod.options import Options

_LOOKS_WITHOUT_ANSWER = 20


def run(cloud: Cloud, options: Options, kind: TpuType | None, root: pathlib.Path) -> None:
    """Runs the command on every worker until it is done; returns then.

    `kind` may be None as long as no TPUs must be requested.

    Raises:
        Mistake: another command is running, or the job ended with a user error.
        Fault: the job ended otherwise, a slice cannot be reached, or the request was deleted.
    """
    started = False
    while True:
        now = request.state(cloud, options)
        if started and now == request.GONE:
            raise Fault(
                f"the request for {options.name} was deleted; the run ends. The same command"
                " requests the TPUs again and resumes from the last checkpoint"
            )
        if started and now not in (request.ACTIVE, request.UNKNOWN):
            say(
                f"{options.name} is {now}; it is created again, and the run resumes from its last"
                " checkpoint"
            )
        if now != request.ACTIVE or cloud.dry_run:
            _up(cloud, options, kind)
        if not _start(cloud, options, root):
            continue
        if kind is None and not started:
            say("without --type, the TPUs are not requested again if they are taken away")
        started = True
        if cloud.dry_run:
            job.look(cloud, options)
            return
        if _watch(cloud, options):
            return


def _up(cloud: Cloud, options: Options, kind: TpuType | None) -> None:
    if kind is None:
        raise Mistake("--type is missing; add it, for example --type=v4-128")
    request.up(cloud, options, kind)


def _start(cloud: Cloud, options: Options, root: pathlib.Path) -> bool:
    """Copies the code and starts the job where it is not running.

    Returns False if the TPUs were taken away meanwhile.
    """
    rows = job.look(cloud, options)
    if lost := job.unreachable(rows):
        if request.state(cloud, options) not in (request.ACTIVE, request.UNKNOWN):
            return False
        raise Fault(f"{'; '.join(lost)}; nothing was copied or started")
    running = [row for row in rows if row.state == "running"]
    for row in running:
        _check_same(options, row)
    if rows and len(running) == len(rows):
        say("the job is running already; 'run' watches it")
        return True
    ship.ship(cloud, options, root)
    replies = workers.everywhere(cloud, options, ship.start_text(options))
    if faults := workers.failed(replies):
        raise Fault(f"a worker could not start: {'; '.join(faults)}")
    ours = " ".join(("already running: palmscale", *options.command))
    for reply in replies:
        if reply.last.startswith("already running: ") and reply.last.strip() != ours:
            raise Mistake(f"{reply.who} is {reply.last}: someone else started it meanwhile")
    if not cloud.dry_run:
        say("started; it continues without this terminal, and 'run' watches it again")
    return True


def _check_same(options: Options, row: Row) -> None:
    ours = tuple(word.replace("\n", " ") for word in ("palmscale", *options.command))
    if row.command and row.command != ours:
        raise Mistake(
            f"{row.reply.who} ({row.host}) is running another command:"
            f" {' '.join(row.command)}; nothing was copied. Stop it first: tpu_pod.sh stop"
            f" --name={options.name} --zone={options.zone}"
            + (f" --slices={options.slices}" if options.slices > 1 else "")
        )


def _watch(cloud: Cloud, options: Options) -> bool:
    """Returns True when the job is done; False if its TPUs or the job on a worker are gone."""
    said, silent = [], 0
    while True:
        time.sleep(options.poll)
        now = request.state(cloud, options)
        if now in (request.UNKNOWN, request.DELETING):
            continue
        if now != request.ACTIVE:
            return False
        rows = job.look(cloud, options)
        if any(row.code == "2" for row in rows):
            _end_with_mistake(cloud, options, rows)
        lost = job.unreachable(rows)
        silent = silent + 1 if lost else 0
        if silent == _LOOKS_WITHOUT_ANSWER:
            raise Fault(f"{'; '.join(lost)}; the job may still be running: run again to watch it")
        for line in lost if lost != said else []:
            say(f"{line}; the job may still be running")
        said = lost
        states = {row.state for row in rows}
        if not lost and "idle" in states:
            return False  # after a reboot a worker has no job, while the others wait for it
        if lost or "running" in states:
            continue
        if all(row.code == "0" for row in rows):
            say("done")
            return True
        job.say_fault(rows)
        raise Fault("ended permanently; see 'tpu_pod.sh status' and 'tpu_pod.sh logs'")


def _end_with_mistake(cloud: Cloud, options: Options, rows: list[Row]) -> None:
    job.say_fault(rows)
    try:
        job.stop(cloud, options)
    except Fault as fault:
        say(str(fault))
    raise Mistake("the run was stopped; correct its command")
