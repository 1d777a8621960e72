"""The actions of launch/tpu_pod.sh."""

from __future__ import annotations

import pathlib

from tpu_pod import job, request
from tpu_pod.accelerators import tpu_type
from tpu_pod.cloud import Cloud
from tpu_pod.errors import Fault, Mistake, say
from tpu_pod.options import Options, parse
from tpu_pod.run import run

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def main(arguments: list[str]) -> int:
    """Runs the command line and returns its exit code: 0, 1 for a fault, 2 for a user error."""
    try:
        action, options = parse(arguments)
        return _act(action, options)
    except Mistake as mistake:
        say(f"error: {mistake}")
        return 2
    except Fault as fault:
        say(f"error: {fault}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; a job that was started continues")
        return 130
    except BrokenPipeError:
        return 1


def _act(action: str, options: Options) -> int:
    cloud = Cloud(zone=options.zone, project=options.project, dry_run=options.dry_run)
    kind = None
    if action == "up" or (action == "run" and options.type):
        kind = tpu_type(options.type, options.topology, options.runtime)
    if action == "up":
        request.up(cloud, options, kind)
    elif action == "run":
        run(cloud, options, kind, _ROOT)
    elif action == "status":
        job.status(cloud, options)
    elif action == "stop":
        job.stop(cloud, options)
    elif action == "down":
        return _down(cloud, options)
    else:
        text = "palmscale/launch/worker.sh logs" if options.follow else "cat .palmscale/log"
        flags = [f"--worker={options.worker}", f"--command={text}"]
        return cloud.show("tpu-vm", "ssh", options.nodes[options.slice], flags=flags)
    return 0


def _down(cloud: Cloud, options: Options) -> int:
    if not options.force and request.state(cloud, options) == request.ACTIVE:
        rows = job.look(cloud, options)
        running = [f"{row.reply.who} is running a job" for row in rows if row.state == "running"]
        if busy := running[:1] + job.unreachable(rows):
            raise Mistake(
                f"{'; '.join(busy)}; 'stop' makes it save first, and 'down --force' deletes the"
                " TPUs and loses what is not saved"
            )
    return 1 if request.delete(cloud, options) else 0
