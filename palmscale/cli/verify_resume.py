"""`palmscale verify-resume`: is a run that was killed and resumed the run that would have been?"""

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from palmscale.cli import tables
from palmscale.cli.facts import versions
from palmscale.cli.local_job import LocalJob
from palmscale.cli.reporting import METRICS_FILE
from palmscale.cli.wiring import CHECKPOINTS
from palmscale.errors import UserError
from palmscale.observe import log
from palmscale.storage.place import place

CERTIFICATE = "certificate.json"
STRAIGHT, RESUMED = "straight", "resumed"
# Of losses and parameters where the reductions have another order: another mesh, or one process
# against several. Float32 sums of a few steps differ by far less; bfloat16 ones may reach it.
TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing compared: `equal` bit for bit, `close` within the tolerance, or `different`."""

    what: str
    verdict: str
    detail: str


def verify_resume(args: argparse.Namespace) -> int:
    """Trains straight through, and again with a kill in between; compares; writes a certificate.

    Returns 0 where all is as promised, else 1.
    """
    log.set_up()
    if not isinstance(place(args.workdir), Path):
        raise UserError(
            f"--workdir={args.workdir} - both runs and what is noted of them are kept on this"
            " machine - give a folder of it"
        )
    workdir = Path(args.workdir)
    if workdir.exists() and any(workdir.iterdir()):
        raise UserError(
            f"{workdir} is not empty - both runs begin anew - choose another --workdir, or"
            " remove it"
        )
    total = args.steps + args.more
    straight, resumed = workdir / STRAIGHT, workdir / RESUMED
    log.say(f"Training {total} steps straight, on {args.processes} process(es).")
    _finish(_start(args, straight, args.processes, "0"))
    log.say(f"Training again, to be killed at step {args.steps}.")
    job = _start(args, resumed, args.processes, "0")
    # Before anything is saved there is nothing to resume from.
    if job.wait(lambda: _steps(resumed) >= args.steps and _has_saved(resumed)) is not None:
        raise UserError(
            f"the run ended before it could be killed ({job.last_line()}) - it must still be on its"
            f" way when step {args.steps} is done and a checkpoint saved - give a larger --more"
        )
    job.kill()
    others = args.resume_processes or args.processes
    log.say(f"Killed. Resuming on {others} process(es).")
    _finish(_start(args, resumed, others, "1", *args.resume_with))
    alike = not args.resume_with and (args.processes == 1) == (others == 1)
    checks = list(compare(straight, resumed, bit_equal=alike))
    good = all(check.verdict != "different" for check in checks)
    certificate = {
        "good": good,
        "steps": total,
        "killed_at": args.steps,
        "processes": [args.processes, others],
        "resumed_with": args.resume_with,
        "tolerance": None if alike else TOLERANCE,
        "checks": [dataclasses.asdict(check) for check in checks],
        "versions": versions(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    (workdir / CERTIFICATE).write_text(json.dumps(certificate, indent=1) + "\n")
    tables.print_table(("compared", "verdict", ""), [(c.what, c.verdict, c.detail) for c in checks])
    log.say(f"{'Verified' if good else 'NOT verified'}: {workdir / CERTIFICATE}")
    return 0 if good else 1


def _start(
    args: argparse.Namespace, workdir: Path, processes: int, attempt: str, *more: str
) -> LocalJob:
    save_every = max(args.steps // 2, 1)
    own = {
        "TRAIN_STEPS": args.steps + args.more,
        "SAVE_EVERY_STEPS": save_every,
        "KEEP_EVERY_STEPS": save_every,  # all of them: the restored one is looked at
        "SAMPLE_PROMPT": None,
    }
    given = [*args.gin_bindings, *more]
    # Of one name given twice, gin takes the last.
    bindings = [text for text in given if text.partition("=")[0] not in own]
    bindings += [f"{name}={value}" for name, value in own.items()]
    return LocalJob(
        [
            "train",
            *(f"--gin_file={file}" for file in args.gin_file),
            f"--workdir={workdir}",
            f"--witness={workdir}.jsonl",
            *(f"--gin.{binding}" for binding in bindings),
        ],
        processes=processes,
        logs=Path(f"{workdir}_logs") / attempt,
    )


def _finish(job: LocalJob) -> None:
    try:
        code = job.wait()
    finally:
        job.kill()
    if code:
        raise UserError(f"a run failed with exit code {code}: {job.last_line()}")


def _steps(workdir: Path) -> int:
    path = workdir / METRICS_FILE
    return path.read_text().count("\n") if path.exists() else 0


def _has_saved(workdir: Path) -> bool:
    return any((workdir / CHECKPOINTS).glob("*/VERIFIED"))


def compare(straight: Path, resumed: Path, *, bit_equal: bool) -> Iterator[Check]:
    """Yields what is compared of two finished runs; `bit_equal`: nothing but equality will do.

    Batches, keys and restored states must be equal bit for bit in any case.
    """
    ours, theirs = (_witnessed(path) for path in (straight, resumed))
    for what, name in (("batches", "batch"), ("randomness", "key")):
        differing = _first_difference(ours, theirs, name)
        yield Check(
            what,
            "equal" if differing is None else "different",
            f"{len(ours['steps'])} steps" if differing is None else f"first at step {differing}",
        )
    yield _restored(resumed, theirs)
    losses = [
        [json.loads(line)["loss"] for line in (run / METRICS_FILE).read_text().splitlines()]
        for run in (straight, resumed)
    ]
    yield _numbers("losses", [("step", losses)], bit_equal)
    yield _numbers("parameters", _final_params(straight, resumed), bit_equal)


def _witnessed(workdir: Path) -> dict[str, Any]:
    seen: dict[str, Any] = {"steps": {}, "restored": {}}
    for text in Path(f"{workdir}.jsonl").read_text().splitlines():
        line = json.loads(text)
        if "restored" in line:
            seen["restored"][line["restored"]] = line["arrays"]
        else:
            seen["steps"].setdefault(line["step"], []).append(line)
    return seen


def _first_difference(ours: Mapping, theirs: Mapping, name: str) -> int | None:
    for step in sorted(ours["steps"].keys() | theirs["steps"].keys()):
        values = [
            line[name]
            for seen in (ours, theirs)
            for line in seen["steps"].get(step, [{name: None}])
        ]
        if any(value != values[0] for value in values):
            return step
    return None


def _restored(resumed: Path, theirs: Mapping) -> Check:
    if not theirs["restored"]:
        return Check("restored state", "different", "nothing was restored")
    step = max(theirs["restored"])
    manifest = json.loads((resumed / CHECKPOINTS / str(step) / "MANIFEST.json").read_text())
    saved = {
        f"{item}/{name}": array["fingerprint"]
        for item, arrays in manifest["arrays"].items()
        for name, array in arrays.items()
    }
    wrong = [name for name in saved if saved[name] != theirs["restored"][step].get(name)]
    if wrong:
        return Check("restored state", "different", f"first in {wrong[0]}, at step {step}")
    return Check("restored state", "equal", f"{len(saved)} arrays, at step {step}")


def _final_params(straight: Path, resumed: Path) -> list[tuple[str, list[Any]]]:
    from palmscale.checkpoint.store import CheckpointStore
    from palmscale.cli.samples import stored_params

    trees = []
    for run in (straight, resumed):
        with CheckpointStore(run / CHECKPOINTS) as store:
            trees.append(stored_params(store))
    return [(name, [np.asarray(tree[name]) for tree in trees]) for name in trees[0]]


def _numbers(what: str, values: list[tuple[str, list[Any]]], bit_equal: bool) -> Check:
    """Compares pairs of arrays, and names the first that differs."""
    worst, first = 0.0, ""
    for name, (a, b) in values:
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if a.shape != b.shape:
            return Check(what, "different", f"{name}: {a.shape} against {b.shape}")
        if np.array_equal(a, b):
            continue
        at = next(i for i, (x, y) in enumerate(zip(a.flat, b.flat)) if x != y)
        first = first or f"{name} {at + 1}" if what == "losses" else first or name
        scale = max(float(np.max(np.abs(a))), 1e-30)
        worst = max(worst, float(np.max(np.abs(a - b))) / scale)
    if not first:
        return Check(what, "equal", "bit for bit")
    detail = f"first in {first}; largest relative difference {worst:.1e}"
    close = not bit_equal and worst <= TOLERANCE and not math.isnan(worst)
    return Check(what, "close" if close else "different", detail)
