"""Plans a run: its own train step, lowered for a topology, judged, printed and written down."""

import argparse
import functools
import json
from collections.abc import Iterator
from typing import Any

import jax

from palmscale import axes
from palmscale.cli import plan_cache, searching, tables
from palmscale.cli.explain import num_params
from palmscale.cli.facts import compiler_versions, versions
from palmscale.cli.planned import PAGE_FILE, PLAN_FILE
from palmscale.cli.rows import is_packed
from palmscale.cli.run import Run, describe, load_run
from palmscale.cli.wiring import compiled_step, setting_without_rows
from palmscale.data.feed import batch_shapes
from palmscale.errors import UserError
from palmscale.observe import log, units
from palmscale.partition.shardings import audit
from palmscale.plan import report, topology
from palmscale.plan.flops import matmul_flops
from palmscale.plan.page import page
from palmscale.plan.saved import saved_arrays
from palmscale.plan.topology import Topology
from palmscale.plan.verdict import Step, judge
from palmscale.storage.place import Place, place
from palmscale.train.compiled import digest
from palmscale.train.saved_step import save_step


def use_no_device() -> None:
    """Keeps JAX from this machine's accelerators, and from a cache that has no use for a plan."""
    jax.config.update("jax_platforms", "cpu")
    # It cannot read back what no device here can run.
    jax.config.update("jax_enable_compilation_cache", False)


def plan(args: argparse.Namespace, run: Run, where: Topology) -> int:
    """Plans the stages of a run that are asked for; 1 where one does not fit."""
    if args.search:
        sequences = max(_batches(run, args.batch))
        return searching.search(args, run, where, devices_of(where), sequences)
    plans = []
    for sequences in _batches(run, args.batch):
        plans.append(_planned(args, run, where, sequences))
        print_plan(plans[-1])
        if not plans[-1]["fits"] and args.suggest:
            searching.suggest(args, run, where, devices_of(where), sequences)
    _write(place(args.workdir), run, plans)
    return 0 if all(one["fits"] for one in plans) else 1


def _planned(args: argparse.Namespace, run: Run, where: Topology, sequences: int) -> dict[str, Any]:
    """Returns the plan of one batch; a program that was planned before is not compiled again."""
    log.say(f"Compiling the step of {sequences:,} sequences for {where}.")
    step = lowered_step(run, where, sequences)
    budget = {
        "tokens_to_train": run.batch_schedule.rows_before(run.train_steps)
        * run.data.sequence_length,
        "dollars_per_chip_hour": args.dollars_per_chip_hour,
    }
    key = plan_cache.key_of(
        step=step.digest, topology=str(where), options=run.layout.tpu_options, **budget
    )
    before = None if args.save_step else plan_cache.read(key)
    if before is not None:
        return before
    verdict = judge(step, where)
    if args.save_step and verdict.compiled:
        save_step(
            place(args.save_step),
            verdict.compiled.executable,
            digest=step.digest,
            versions=compiler_versions(),
        )
        log.say(f"The compiled step is in {args.save_step}; that it loads on TPUs was not tried.")
    plan = report.to_json(verdict, **budget)
    plan_cache.write(key, plan)
    return plan


def explain(args: argparse.Namespace) -> None:
    """Prints what the compiler made of a run's step: its collectives, and what fills the memory."""
    run = load_run(args.gin_file, args.gin_bindings)
    where = topology_of(run, args.topology, args.slices)
    sequences = max(sequences for _, sequences in run.batch_schedule.stages)
    log.say(f"Compiling the step of {sequences:,} sequences for {where}.")
    verdict = judge(lowered_step(run, where, sequences), where)
    print()
    if not verdict.fits:
        raise UserError(
            f"the step does not fit {where}, so there is no program to explain - needed are"
            f" {units.size(verdict.needed_bytes)} of {units.size(verdict.offered_bytes or 0)} a"
            " device - see palmscale plan"
        )
    tables.print_table(*report.collective_rows(verdict.found), right=(2, 3, 4))
    print()
    tables.print_table(*report.array_rows(verdict.arrays), right=(1, 2))


def lowered_step(run: Run, where: Topology, sequences: int) -> Step:
    """Returns the run's train step for a batch of so many sequences, lowered for a topology.

    Raises:
        UserError: the mesh, the batch or a parameter does not divide; or there is no such libtpu.
    """
    with setting_without_rows(run, devices_of(where)) as here:
        mesh, plan, rules = here.mesh, here.plan, here.rules
        run.check_divides(sequences, mesh.shape[axes.REPLICA] * mesh.shape[axes.DATA], "--batch")
        step = compiled_step(here)
        traced = step.trace(
            batch_shapes(
                sequences,
                run.data.sequence_length,
                here.batch_sharding,
                is_packed=is_packed(run.data),
            )
        )
        lowered = traced.lower()
    length = run.data.sequence_length
    attention = getattr(run.model, "attention_flops_per_token", lambda sequence_length: 0)
    arrays = audit(plan.boxed.params, mesh.shape, rules)
    layers = getattr(run.model, "depth", 1)
    param_shapes = {array.shape for array in arrays}
    return Step(
        compile=functools.partial(step.compile, lowered),
        digest=digest(lowered),
        mesh=mesh,
        params=plan.abstract.params,
        optimizer_state=plan.abstract.optimizer_state,
        tokens=sequences * length,
        sequence_length=length,
        num_params=num_params(arrays, getattr(run.model, "num_tokens", None)),
        attention_flops_per_token=attention(length),
        matmul_flops=matmul_flops(traced),
        layers=layers,
        saved=tuple(saved_arrays(traced, layers, param_shapes)),
        vocabulary=getattr(run.model, "stored_tokens", here.vocabulary.size),
    )


def devices_of(where: Topology) -> list[jax.Device]:
    """Returns the devices of a topology, none of which is here.

    Raises:
        UserError: libtpu cannot be used, and why.
    """
    try:
        return where.describe()
    except (ImportError, RuntimeError, jax.errors.JaxRuntimeError) as error:
        text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "lockfile" in str(error):
            raise UserError(
                "another process on this machine holds libtpu - plan shares it where"
                " ALLOW_MULTIPLE_LIBTPU_LOAD=1 - end that process, or set the variable for it too"
            ) from None
        raise UserError(
            f"libtpu does not describe {where}: {text} - needed is the libtpu that this jax is"
            " released with - pip install 'palmscale[plan]'"
        ) from None


def print_plan(plan: dict[str, Any]) -> None:
    """Prints one plan: the verdict, then where the bytes go."""
    print()
    tables.print_facts(report.facts(plan))
    rows = [
        [name, units.size(size)] for name, size in plan["collective_bytes"].items() if size >= 2**20
    ]
    if rows:
        print()
        tables.print_table(("collectives", "a step and device"), rows, right=(1,))
    for one in plan["surprises"][:8]:
        print(
            f"unexpected: {one['kind']} over {one['axis']} of {one['array']},"
            f" {one['executions_per_step']} a step: {one['why']} ({one['source'] or 'no source'})"
        )


def topology_of(run: Run, name: str | None, slices: int | None) -> Topology:
    """Returns the topology that the command line names, else the run's own.

    Raises:
        UserError: neither names one, or there is none of that name.
    """
    if name is None and run.layout.topology is None:
        raise UserError(
            "no topology: neither TOPOLOGY in the gin files nor --topology says one - add for"
            " example --topology=v5e-256"
        )
    if name is None:
        return topology.parse(run.layout.topology, slices or run.layout.slices)
    return topology.parse(name, slices or 1)


def _batches(run: Run, which: str) -> Iterator[int]:
    """Yields the sizes of batches to plan: the largest, every stage's, or the one named."""
    sizes = sorted({sequences for _, sequences in run.batch_schedule.stages})
    if which == "largest":
        yield sizes[-1]
    elif which == "all":
        yield from sizes
    else:
        yield int(which)


def _write(workdir: Place, run: Run, plans: list[dict[str, Any]]) -> None:
    workdir.mkdir(parents=True, exist_ok=True)
    whole = {"versions": versions(), "run": describe(run), "plans": plans}
    (workdir / PLAN_FILE).write_text(json.dumps(whole, indent=1))
    (workdir / PAGE_FILE).write_text(page(whole))
    print()
    print(f"Everything is in {workdir / PLAN_FILE}; to look at: {workdir / PAGE_FILE}")
