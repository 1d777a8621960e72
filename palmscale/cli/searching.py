"""Plans other ways to lay a run out, each compiled by a process of its own, and keeps the best."""

import argparse
import concurrent.futures
import dataclasses
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from palmscale import axes
from palmscale.cli import tables
from palmscale.cli.planned import PLAN_FILE
from palmscale.cli.run import Run
from palmscale.errors import UserError
from palmscale.observe import log
from palmscale.partition.mesh import MeshSpec, make_mesh
from palmscale.partition.rules import layout_rules
from palmscale.plan.chips import GIB
from palmscale.plan.choices import Choice, Shape, choices, variations
from palmscale.plan.compile import offered_bytes
from palmscale.plan.network import Network
from palmscale.plan.search import promising, remedies
from palmscale.plan.topology import Topology
from palmscale.storage.place import place

FOUND_FILE = "found.gin"
_CHILD_SECONDS = 1800


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tried:
    """A choice that was compiled: the plan that came out, or why there is none."""

    choice: Choice
    settings: dict[str, str]
    plan: dict[str, Any] | None
    error: str = ""

    @property
    def fits(self) -> bool:
        """Whether the compiler accepts it."""
        return self.plan is not None and self.plan["fits"]

    @property
    def rank(self) -> float:
        """Less is better: seconds of a step, or cycles where the chip's clock is unknown."""
        if not self.plan or not self.plan["fits"]:
            return float("inf")
        if prediction := self.plan["prediction"]:
            ends = (prediction[key] for key in ("at_best", "if_nothing_overlaps"))
            return sum(end["step_seconds"] for end in ends) / 2
        return self.plan["compute"]["cycles"]


def search(
    args: argparse.Namespace, run: Run, where: Topology, devices: Sequence[Any], sequences: int
) -> int:
    """Compiles the run as it is and the most promising choices; writes the best as a gin file."""
    if not isinstance(folder := place(args.workdir), Path):
        raise UserError(
            f"--workdir={args.workdir} - a search writes a gin file to plan and train with - give a"
            " folder of this machine"
        )
    base, shape = base_choice(run, where), shape_of(run, where, devices, sequences)
    found = list(choices(shape, base.options))
    kept = promising(found, shape, args.search)
    log.say(
        f"{len(found):,} ways to lay it out; compiling the run as it is and the {len(kept)} most"
        f" promising for {where}."
    )
    wanted = [base, *(one for one in kept if one != base)]
    tried = sorted(_compile_all(args, where.slices, base, wanted), key=lambda one: one.rank)
    if tried[0].fits:
        log.say("Compiling the best of these with other options of the compiler.")
        more = variations(tried[0].choice)
        tried += _compile_all(args, where.slices, base, more)
        tried.sort(key=lambda one: one.rank)
    print()
    tables.print_table(*_rows(tried), right=(0, 1, 2, 3))
    best = tried[0]
    if not best.fits:
        print(f"\nNone of these fits {where}; take more chips, or a smaller batch.")
        return 1
    path = folder / FOUND_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_gin_text(args, where, sequences, best, tried))
    print(f"\nThe best is in {path}: palmscale plan --gin_file={path}")
    return 0


def suggest(
    args: argparse.Namespace, run: Run, where: Topology, devices: Sequence[Any], sequences: int
) -> None:
    """Prints the nearest changes with which a run that does not fit does, each compiled."""
    base, shape = base_choice(run, where), shape_of(run, where, devices, sequences)
    near = remedies(base, shape, 3 * args.suggest)
    log.say(f"Compiling the nearest changes that may fit, of {len(near)}.")
    fitting = 0
    for one in _compile_all(args, where.slices, base, near, sequences=sequences):
        said = " ".join(f"--gin.{name}={value!r}" for name, value in one.settings.items())
        if one.plan is None:
            print(f"not {said}: {one.error.removeprefix('palmscale: error: ')}")
            continue
        memory = one.plan["memory"]
        held = f"{memory['needed_bytes'] / GIB:.2f} GiB of {memory['offered_bytes'] / GIB:.2f}"
        if one.fits:
            print(f"fits with {said}: {held}{_speed(one.plan)}")
            fitting += 1
        else:
            print(f"does not fit with {said} either: {held}")
        if fitting == args.suggest:
            return
    if not fitting:
        print("no near change fits; try --search, more chips, or a smaller batch")


def base_choice(run: Run, where: Topology) -> Choice:
    """Returns the choice that a run makes now."""
    replicas, data, model = run.layout.mesh.shape(where.devices)
    rules = layout_rules(run.layout.rules, run.layout.overrides)
    residual = "embed" if rules[axes.ACT_EMBED] == axes.MODEL else "replicated"
    if rules[axes.ACT_LENGTH] == axes.MODEL:
        residual = "sequence"
    return Choice(
        replicas=max(1, replicas // where.slices),
        data=data,
        model=model,
        microbatches=run.microbatches,
        loss_chunk_length=run.loss_chunk_length,
        remat=getattr(run.model, "remat", "none"),
        residual=residual,
        vocabulary=axes.DATA if rules[axes.VOCAB] == axes.DATA else axes.MODEL,
        options=tuple(run.layout.tpu_options.items()),
    )


def shape_of(run: Run, where: Topology, devices: Sequence[Any], sequences: int) -> Shape:
    """Returns what the arithmetic needs to know.

    Raises:
        UserError: the model has not the fields of PaLM, which the arithmetic reads.
    """
    model = run.model
    missing = [name for name in ("dim", "heads", "dim_head", "depth") if not hasattr(model, name)]
    if missing:
        raise UserError(
            f"{type(model).__name__} has no {', '.join(missing)}, from which other layouts are"
            " worked out - needed are the fields of PaLM - plan its layouts one by one"
        )
    a_slice = dataclasses.replace(where, slices=1)
    first = list(devices[: a_slice.devices])

    @functools.cache
    def ways(replicas: int, data: int, size: int) -> tuple[float, float, float]:
        mesh = make_mesh(MeshSpec(replicas=replicas, data=data, model=size), first)
        network = Network(a_slice, list(mesh.devices.flat))
        numbers = np.arange(mesh.size).reshape(replicas, data, size)
        lines = (numbers[:, 0, 0], numbers[0, :, 0], numbers[0, 0])
        paths = [network.path(line) for line in lines]
        rates = [path.bytes_per_second or where.chip.hbm_bytes_per_second for path in paths]
        return rates[0], rates[1], rates[2]

    return Shape(
        width=model.dim,
        heads=model.heads,
        head_size=model.dim_head,
        mlp=model.dim * getattr(model, "ff_mult", 4),
        layers=model.depth,
        vocabulary=getattr(model, "stored_tokens", model.num_tokens),
        sequences=sequences,
        stages=tuple(stage for _, stage in run.batch_schedule.stages),
        length=run.data.sequence_length,
        slices=where.slices,
        devices=a_slice.devices,
        chip=where.chip,
        offered_bytes=offered_bytes(first[0]) or where.chip.hbm_bytes,
        ways=ways,
    )


def _compile_all(
    args: argparse.Namespace,
    slices: int,
    base: Choice,
    wanted: Sequence[Choice],
    *,
    sequences: int | None = None,
) -> Iterator[Tried]:
    """Yields each choice, compiled, in their order; as many at once as there are cores."""
    cores = max(1, len(os.sched_getaffinity(0)))
    with concurrent.futures.ThreadPoolExecutor(cores) as pool:
        waiting = [
            pool.submit(_compile_one, args, one, one.settings(base, slices), sequences)
            for one in wanted
        ]
        try:
            for done in waiting:
                yield done.result()
        finally:
            for one in waiting:
                one.cancel()


def _compile_one(
    args: argparse.Namespace, choice: Choice, settings: dict[str, str], sequences: int | None
) -> Tried:
    with tempfile.TemporaryDirectory(prefix="palmscale-plan-") as folder:
        command = [
            sys.executable,
            "-m",
            "palmscale",
            "plan",
            *(f"--gin_file={path}" for path in args.gin_file),
            *(f"--gin.{binding}" for binding in args.gin_bindings),
            *(f"--gin.{name}={value}" for name, value in settings.items()),
            f"--batch={sequences or args.batch}",
            f"--workdir={folder}",
            "--suggest=0",
        ]
        command += [f"--topology={args.topology}"] if args.topology else []
        command += [f"--slices={args.slices}"] if args.slices else []
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_CHILD_SECONDS)
        path = Path(folder) / PLAN_FILE
        if ended.returncode in (0, 1) and path.is_file():
            plan = json.loads(path.read_text())["plans"][-1]
            return Tried(choice=choice, settings=settings, plan=plan)
    lines = ended.stderr.strip().splitlines() or ["no message"]
    return Tried(choice=choice, settings=settings, plan=None, error=lines[-1])


def _rows(tried: Sequence[Tried]) -> tuple[list[str], list[list[str]]]:
    headings = ["GiB", "G cycles", "waits for GiB", "step s", "MFU", "settings"]
    rows = []
    for one in tried:
        said = " ".join(f"{name}={value}" for name, value in one.settings.items()) or "as it is"
        if one.plan is None:
            why = one.error.removeprefix("palmscale: error: ")
            rows.append(["", "", "", "", "", f"{said}: {why}"])
            continue
        memory, prediction = one.plan["memory"], one.plan["prediction"]
        waits = sum(v for k, v in one.plan["collective_bytes"].items() if "asynchronous" not in k)
        ends = prediction and [prediction[key] for key in ("at_best", "if_nothing_overlaps")]
        rows.append(
            [
                f"{memory['needed_bytes'] / GIB:.2f}{'' if one.fits else ', too much'}",
                f"{one.plan['compute']['cycles'] / 1e9:.3f}" if one.fits else "",
                f"{waits / GIB:.1f}" if one.fits else "",
                " to ".join(f"{end['step_seconds']:.2f}" for end in ends) if ends else "unknown",
                " to ".join(f"{end['mfu']:.1%}" for end in ends[::-1]) if ends else "unknown",
                said,
            ]
        )
    return headings, rows


def _speed(plan: dict[str, Any]) -> str:
    prediction = plan.get("prediction")
    if not prediction:
        return ", in an unknown time: the chip's clock is unknown"
    ends = [prediction[key]["step_seconds"] for key in ("at_best", "if_nothing_overlaps")]
    return f", predicted {ends[0]:.2f} to {ends[1]:.2f} s a step"


def _gin_text(
    args: argparse.Namespace, where: Topology, sequences: int, best: Tried, tried: Sequence[Tried]
) -> str:
    as_it_is = next(one for one in tried if not one.settings)
    was = _speed(as_it_is.plan or {}) if as_it_is.fits else " does not fit"
    lines = [
        f"# Found by a search of layouts on {where}, {sequences:,} sequences a step: the best of"
        f" {len(tried)} that were compiled{_speed(best.plan or {})}.",
        f"# The run as it was{was}.",
    ]
    # A parameter is bound in a file that imports its module; a macro anywhere.
    bindings = dict(binding.split("=", 1) for binding in args.gin_bindings)
    dotted = [f"--gin.{name}={value!r}" for name, value in bindings.items() if "." in name]
    if dotted:
        lines.append(f"# Found with these too; add them: {' '.join(dotted)}")
    lines += ["from __gin__ import dynamic_registration", ""]
    lines += [f"include '{path}'" for path in args.gin_file]
    macros = {name: value for name, value in bindings.items() if "." not in name}
    macros["TOPOLOGY"] = repr(str(dataclasses.replace(where, slices=1)))
    macros["SLICES"] = str(where.slices)
    macros |= best.settings
    return "\n".join([*lines, "", *(f"{name} = {value}" for name, value in macros.items()), ""])
