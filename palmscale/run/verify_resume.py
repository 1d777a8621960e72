"""Is a run that was killed and resumed the run that would have been? Two runs, compared."""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from palmscale.checkpoint.reader import CheckpointReader
from palmscale.errors import UserError
from palmscale.observe import log
from palmscale.observe.reporting import METRICS
from palmscale.run.local_job import LocalJob
from palmscale.run.versions import versions
from palmscale.run.workdir import CHECKPOINTS
from palmscale.storage.place import place

CERTIFICATE = "certificate.json"
STRAIGHT, RESUMED = "straight", "resumed"
# Of losses and parameters where the reductions have another order: another mesh, or one process
# against several. Float32 sums of a few steps differ by far less; bfloat16 ones may reach it.
TOLERANCE = 1e-3

# (workdir, step log, whether it resumes) to the command of a process that trains there.
TrainingCommand = Callable[[Path, Path, bool], Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Check:
    """One comparison: `equal` bit for bit, `close` within the tolerance, or `different`."""

    what: str
    verdict: str
    detail: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Certificate:
    """What two runs showed.

    Attributes:
        good: whether nothing is different.
        steps: of each run.
        killed_at: the step after which the second run was killed.
        processes: before and after the kill.
        resumed_with: settings of the resumed run that differ.
        tolerance: of losses and parameters; None: they must be equal bit for bit.
        checks: what was compared.
        versions: of what decides a run's numbers.
        time: when it was written.
    """

    good: bool
    steps: int
    killed_at: int
    processes: tuple[int, int]
    resumed_with: tuple[str, ...]
    tolerance: float | None
    checks: tuple[Check, ...]
    versions: dict[str, str]
    time: str


def verify_resume(
    command: TrainingCommand,
    *,
    workdir: str | Path,
    environment: Mapping[str, str],
    steps: int,
    more: int,
    processes: int = 1,
    resume_processes: int | None = None,
    resumed_with: Sequence[str] = (),
) -> Certificate:
    """Trains straight through, and again with a kill in between; returns what differs.

    The certificate is written to the workdir, too.

    Args:
        command: must train `steps + more` steps and log every one.
        workdir: an empty folder of this machine for both runs.
        environment: of the processes.
        steps: before the kill.
        more: after it.
        processes: of each run.
        resume_processes: after the kill; None: as before.
        resumed_with: settings in which the resumed command differs, for the certificate.

    Raises:
        UserError: the workdir is not an empty folder here, or a run failed.
    """
    if not isinstance(place(workdir), Path):
        raise UserError(f"workdir={workdir} must be a folder of this machine: both runs stay here.")
    workdir = Path(workdir)
    if workdir.exists() and any(workdir.iterdir()):
        raise UserError(f"workdir={workdir} is not empty; name a new folder, or remove this one.")
    straight, resumed = workdir / STRAIGHT, workdir / RESUMED
    others = resume_processes or processes

    def start(run: Path, count: int, *, attempt: int) -> LocalJob:
        return LocalJob(
            command(run, _step_log(run), attempt > 0),
            processes=count,
            logs=Path(f"{run}_logs") / str(attempt),
            environment=environment,
        )

    log.say(f"Training {steps + more} steps straight, on {processes} process(es).")
    _finish(start(straight, processes, attempt=0))
    log.say(f"Training again, to be killed at step {steps}.")
    job = start(resumed, processes, attempt=0)
    # Before anything is saved there is nothing to resume from.
    if job.wait(lambda: _steps(resumed) >= steps and _has_saved(resumed)) is not None:
        raise UserError(
            f"the run ended before it could be killed ({job.last_line()}); it must still be"
            f" training when step {steps} is done and a checkpoint is saved: raise `more`."
        )
    job.kill()
    log.say(f"Killed. Resuming on {others} process(es).")
    _finish(start(resumed, others, attempt=1))
    alike = not resumed_with and (processes == 1) == (others == 1)
    checks = tuple(compare(straight, resumed, bit_equal=alike))
    certificate = Certificate(
        good=all(check.verdict != "different" for check in checks),
        steps=steps + more,
        killed_at=steps,
        processes=(processes, others),
        resumed_with=tuple(resumed_with),
        tolerance=None if alike else TOLERANCE,
        checks=checks,
        versions=versions(),
        time=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    )
    text = json.dumps(dataclasses.asdict(certificate), indent=1)
    (workdir / CERTIFICATE).write_text(f"{text}\n")
    return certificate


def _step_log(workdir: Path) -> Path:
    return Path(f"{workdir}.jsonl")


def _finish(job: LocalJob) -> None:
    try:
        code = job.wait()
    finally:
        job.kill()
    if code:
        raise UserError(f"a run failed with exit code {code}: {job.last_line()}")


def _steps(workdir: Path) -> int:
    path = workdir / METRICS
    return path.read_text().count("\n") if path.exists() else 0


def _has_saved(workdir: Path) -> bool:
    return any((workdir / CHECKPOINTS).glob("*/VERIFIED"))


def compare(straight: Path, resumed: Path, *, bit_equal: bool) -> Iterator[Check]:
    """Yields what is compared of two finished runs; `bit_equal`: nothing but equality will do.

    Batches, keys and restored states must be equal bit for bit in any case.
    """
    ours, theirs = (_logged(path) for path in (straight, resumed))
    for what, name in (("batches", "batch"), ("randomness", "key")):
        differing = _first_difference(ours, theirs, name)
        yield Check(
            what,
            "equal" if differing is None else "different",
            f"{len(ours['steps'])} steps" if differing is None else f"first at step {differing}",
        )
    yield _restored(resumed, theirs)
    losses = [
        [json.loads(line)["loss"] for line in (run / METRICS).read_text().splitlines()]
        for run in (straight, resumed)
    ]
    yield _numbers("losses", [("step", losses)], bit_equal)
    yield _numbers("parameters", _final_params(straight, resumed), bit_equal)


def _logged(workdir: Path) -> dict[str, Any]:
    seen: dict[str, Any] = {"steps": {}, "restored": {}}
    for text in _step_log(workdir).read_text().splitlines():
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
    found = []
    for run in (straight, resumed):
        # Whatever was saved, without the class that it belongs to.
        restored = CheckpointReader(run / CHECKPOINTS).restore_some(None, _all_of)
        assert restored is not None, "a finished run has saved"
        found.append(restored[1])
    return [(name, [np.asarray(arrays[name]) for arrays in found]) for name in found[0]]


def _all_of(stored: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        name: jax.ShapeDtypeStruct(array["shape"], array["dtype"]) for name, array in stored.items()
    }


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
