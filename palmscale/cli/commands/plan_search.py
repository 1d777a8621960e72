"""What `palmscale plan --search` and `--suggest` print and write: layouts as gin settings."""

import argparse
import dataclasses
import pathlib
import shlex
from collections.abc import Mapping, Sequence

from palmscale.cli.config.load import setting_of
from palmscale.errors import UserError
from palmscale.exit_codes import DOES_NOT_FIT
from palmscale.observe import tables
from palmscale.plan.hardware.chips import GIB
from palmscale.plan.hardware.topology import Topology
from palmscale.plan.plans import Plan
from palmscale.plan.run_plan import batches
from palmscale.plan.search import layout_search
from palmscale.plan.search.layout_search import Candidate
from palmscale.plan.verdict import Fits
from palmscale.run import stable_names
from palmscale.run.run import Run
from palmscale.storage.place import place

FOUND_FILE = "found.gin"


def search(args: argparse.Namespace, run: Run, where: Topology) -> int:
    """Prints the compiled layouts, the best first, and writes the best as a gin file."""
    if not isinstance(folder := place(args.workdir), pathlib.Path):
        raise UserError(
            f"--workdir={args.workdir} is a bucket, but --search writes a gin file; give a local"
            " folder."
        )
    sequences = batches(run, int(args.batch) if args.batch.isdecimal() else args.batch)[-1]
    found = layout_search.search(run, where, sequences, count=args.search)
    print()
    tables.print_table(*rows(found), right=(0, 1, 2, 3))
    if not found[0].fits:
        print(f"\nNone of these fits {where}; use more chips or a smaller batch.")
        return DOES_NOT_FIT
    path = folder / FOUND_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    text = gin_text(args.gin_file, args.gin_bindings, where, sequences, found)
    path.write_text(text, encoding="utf-8")
    command = shlex.join(["palmscale", "plan", f"--gin_file={path}"])
    print(f"\nThe best layout is in {path}: {command}")
    return 0


def suggest(run: Run, where: Topology, sequences: int, *, count: int) -> None:
    """Prints the smallest changes that make a run fit, as each is compiled."""
    fitting = 0
    for one in layout_search.suggest(run, where, sequences, count=count):
        flags = " ".join(f"--gin.{name}={value!r}" for name, value in _settings(one).items())
        if isinstance(one.result, str):
            print(f"not {flags}: {one.result}")
            continue
        memory = one.result.verdict.memory
        held = f"{memory.needed_bytes / GIB:.2f} GiB of {memory.offered_bytes / GIB:.2f}"
        if one.fits:
            print(f"fits with {flags}: {held}{_speed(one.result)}")
            fitting += 1
        else:
            print(f"does not fit with {flags} either: {held}")
    if not fitting:
        print("no small change makes it fit; try --search, more chips or a smaller batch")


def rows(found: Sequence[Candidate]) -> tuple[list[str], list[list[str]]]:
    """Returns (headings, rows) of compiled layouts."""
    headings = ["GiB", "G cycles", "synchronous GiB", "step s", "MFU", "settings"]
    return headings, [_row(one) for one in found]


def gin_text(
    gin_files: Sequence[str],
    bindings: Sequence[str],
    where: Topology,
    sequences: int,
    found: Sequence[Candidate],
) -> str:
    """Returns a gin file of the best layout, `found[0]`, over the files and bindings given."""
    best, own = found[0], next(one for one in found if not one.changes)
    was = _speed(own.result) if own.fits and isinstance(own.result, Plan) else " does not fit"
    speed = _speed(best.result) if isinstance(best.result, Plan) else ""
    lines = [
        f"# Found by a layout search on {where}, {sequences:,} sequences a step: the best of"
        f" {len(found)} that were compiled{speed}.",
        f"# The run's own layout{was}.",
    ]
    given = dict(binding.split("=", 1) for binding in bindings)
    # A user's own class is bound in a file that imports its module.
    elsewhere = {name: value for name, value in given.items() if not _is_bindable(name)}
    if elsewhere:
        flags = " ".join(f"--gin.{name}={value!r}" for name, value in elsewhere.items())
        lines.append(f"# Found with these flags, to be added: {flags}")
    lines += ["", *(f"include '{path}'" for path in gin_files), ""]
    settings = {name: value for name, value in given.items() if name not in elsewhere}
    settings[setting_of("Layout.topology")] = repr(str(dataclasses.replace(where, slices=1)))
    settings[setting_of("Layout.slices")] = str(where.slices)
    settings |= {name: repr(value) for name, value in _settings(best).items()}
    return "\n".join([*lines, *(f"{name} = {value}" for name, value in settings.items()), ""])


def _is_bindable(name: str) -> bool:
    """Returns whether any gin file can bind a name: a macro, or a field of a stable name."""
    owner, dot, _ = name.rpartition(".")
    return not dot or owner in stable_names.MODULES


def _settings(one: Candidate) -> Mapping[str, object]:
    return {setting_of(field): value for field, value in one.changes.items()}


def _row(one: Candidate) -> list[str]:
    settings = " ".join(f"{name}={value!r}" for name, value in _settings(one).items())
    settings = settings or "the run's own"
    if isinstance(one.result, str):
        return ["", "", "", "", "", f"{settings}: {one.result}"]
    verdict = one.result.verdict
    held = f"{verdict.memory.needed_bytes / GIB:.2f}"
    if not isinstance(verdict, Fits):
        return [f"{held}, too much", "", "", "", "", settings]
    synchronous = sum(c.bytes_per_step for c in verdict.collectives if not c.asynchronous)
    times = mfu = "unknown"
    if (prediction := verdict.prediction) is not None:
        low, high = prediction.lower_bound, prediction.upper_bound
        times = f"{low.step_seconds:.2f} to {high.step_seconds:.2f}"
        mfu = f"{high.mfu:.1%} to {low.mfu:.1%}"
    cycles = f"{verdict.compute.cycles / 1e9:.3f}"
    return [held, cycles, f"{synchronous / GIB:.1f}", times, mfu, settings]


def _speed(plan: Plan) -> str:
    if not isinstance(plan.verdict, Fits) or (prediction := plan.verdict.prediction) is None:
        return ", in an unknown time: the chip's clock is unknown"
    low, high = prediction.lower_bound.step_seconds, prediction.upper_bound.step_seconds
    return f", predicted {low:.2f} to {high:.2f} s a step"
