"""The job on the workers: its table, its end, and which worker is at fault."""

from __future__ import annotations

import dataclasses
import re
import sys

from tpu_pod import workers
from tpu_pod.cloud import Cloud
from tpu_pod.errors import Fault, say
from tpu_pod.options import Options
from tpu_pod.workers import Reply

_WORKER = "palmscale/launch/worker.sh"
# A worker without the code has no job either. The second line is the command, if one was started.
_STATUS = (
    f"[ -x {_WORKER} ] || exit 0; {_WORKER} status;"
    " [ ! -f .palmscale/command ] || tr '\\0\\n' '\\t ' <.palmscale/command"
)
_STOP = f"if [ -x {_WORKER} ]; then {_WORKER} stop; else echo 'not running'; fi"
_STATUS_TABS = 5
_HEADS = ("slice", "worker", "state", "code", "attempts", "pid", "host", "last line")


@dataclasses.dataclass(frozen=True)
class Row:
    """A worker's line in the table.

    Attributes:
        state: idle, running, ended, or unreachable.
        code: exit code of the job as text; `-` if it has not ended.
        command: the job's arguments, `palmscale` first; () if no job was ever started.
    """

    reply: Reply
    state: str
    code: str = "-"
    attempts: str = "-"
    pid: str = "-"
    host: str = "-"
    last: str = ""
    command: tuple[str, ...] = ()


def look(cloud: Cloud, options: Options) -> list[Row]:
    """Returns a row for each worker; for a slice that cannot be reached, one row."""
    return [_row(reply) for reply in workers.everywhere(cloud, options, _STATUS)]


def _row(reply: Reply) -> Row:
    if reply.worker is None and reply.code == 0:
        reply = dataclasses.replace(reply, code=None, lines=("gcloud returned no output",))
    if reply.code is None:
        return Row(reply, "unreachable", last=reply.last)
    # ssh may print a warning first.
    found = [n for n, line in enumerate(reply.lines) if line.count("\t") == _STATUS_TABS][:1]
    if not found:
        return Row(reply, "idle", last=reply.last)
    command = "".join(reply.lines[found[0] + 1 :][:1]).split("\t")
    return Row(reply, *reply.lines[found[0]].split("\t"), command=tuple(command[:-1]))


def unreachable(rows: list[Row]) -> list[str]:
    """Returns one line for each worker or slice that did not answer."""
    return workers.unreachable([row.reply for row in rows])


def status(cloud: Cloud, options: Options) -> None:
    """Prints the table.

    Raises:
        Fault: a worker cannot be reached.
    """
    rows = look(cloud, options)
    if cloud.dry_run:
        return
    cells = [_HEADS] + [
        (
            row.reply.node,
            "all" if row.reply.worker is None else str(row.reply.worker),
            *(row.state, row.code, row.attempts, row.pid, row.host, row.last),
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells)]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())
    sys.stdout.flush()
    if lost := unreachable(rows):
        raise Fault("; ".join(lost))


def stop(cloud: Cloud, options: Options) -> None:
    """Makes the job save and exit, and prints how each worker's ended.

    Raises:
        Fault: a worker cannot be reached, or its job did not end as one that saved does.
    """
    replies = workers.everywhere(cloud, options, _STOP)
    if cloud.dry_run:
        return
    said = [reply.last for reply in replies if reply.code is not None]
    for line in sorted(set(said)):
        print(f"{said.count(line):7} {line}", flush=True)
    faults = [*workers.failed(replies), *filter(None, map(_unsaved, replies))]
    if faults:
        raise Fault(f"{'; '.join(faults)}; 'down' would lose what is not saved")


def _unsaved(reply: Reply) -> str:
    saved = re.fullmatch(r"stopped with exit code (0|75)", reply.last)
    return f"{reply.who} {reply.last}" if reply.last.startswith("stopped") and not saved else ""


def say_fault(rows: list[Row]) -> None:
    """Names the worker at fault and its last line.

    That is one with a user error, else one with a fault, else one that a signal ended, and last
    those that ended because of another one: 75, and JAX's 134.
    """
    ranks = {"2": 1, "1": 2, "75": 4, "134": 4}
    faulty = [row for row in rows if row.state == "ended" and row.code != "0"]
    if faulty:
        row = min(faulty, key=lambda row: ranks.get(row.code, 3))
        say(f"{row.reply.who} ({row.host}) exited with code {row.code}: {row.last}")
