"""`palmscale plan`: whether a run fits on TPUs that need not be here, and how fast it goes."""

import argparse
from typing import TYPE_CHECKING, Any

from palmscale.cli.argument_values import at_least, path, stage
from palmscale.cli.parser import add_command, add_run_workdir
from palmscale.exit_codes import DOES_NOT_FIT
from palmscale.observe import tables

if TYPE_CHECKING:
    from palmscale.plan.generation import Workload
    from palmscale.plan.hardware.topology import Topology
    from palmscale.plan.plans import Plan
    from palmscale.run.run import Run


def add(commands: Any) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "plan",
        plan,
        "Predict whether a run fits on TPUs that are not here, and how fast it goes; exits with 3"
        " if it does not fit.",
        gin=True,
    )
    add_topology(command)
    command.add_argument(
        "--batch",
        type=stage,
        default="largest",
        metavar="N",
        help="sequences a step: largest (default) or all of the schedule's, or a number",
    )
    add_generation(command, "plan text generation instead")
    command.add_argument(
        "--search",
        type=at_least(int, 1),
        metavar="N",
        help="compile the N most promising other layouts too, and write the best to found.gin",
    )
    command.add_argument(
        "--suggest",
        type=at_least(int, 0),
        default=2,
        metavar="N",
        help="number of nearby fitting layouts to suggest if the run does not fit (default: 2)",
    )
    command.add_argument(
        "--save_step",
        type=path,
        metavar="FILE",
        help="write the compiled step there, for train to load",
    )
    command.add_argument(
        "--dollars_per_chip_hour", type=at_least(float, 0), metavar="D", help="to show a price"
    )
    add_run_workdir(command, help="folder for plan.json and plan.html, where train looks for them")


def add_generation(command: argparse.ArgumentParser, help: str) -> None:
    """Adds --generate, and the flags that say what is generated."""
    count = dict(type=at_least(int, 1), metavar="N")
    command.add_argument("--generate", action="store_true", help=help)
    command.add_argument("--num_samples", default=8, help="side by side (default: 8)", **count)
    command.add_argument("--prompt_tokens", default=2048, help="default: 2048", **count)
    command.add_argument("--prompts", default=1, help="side by side (default: 1)", **count)
    command.add_argument(
        "--context_tokens", help="of a prompt and its text (default: twice the prompt)", **count
    )
    command.add_argument("--quantize", metavar="TYPE", help="weights in int8, int4 or fp8")


def workload(args: argparse.Namespace) -> "Workload":
    """Returns what the flags of `add_generation` say."""
    from palmscale.plan.generation import Workload

    return Workload(
        samples=args.num_samples,
        prompt_tokens=args.prompt_tokens,
        prompts=args.prompts,
        context_tokens=args.context_tokens,
        quantize=args.quantize,
    )


def add_topology(command: argparse.ArgumentParser) -> None:
    """Adds the flags that name TPUs."""
    command.add_argument(
        "--topology", metavar="NAME", help="v4:12x16x16, v5p-256, v5e-256 (default: the gin files')"
    )
    command.add_argument("--slices", type=at_least(int, 1), metavar="N", help="how many of them")


def plan(args: argparse.Namespace) -> int:
    """Plans a run and prints the verdict; returns the exit code."""
    from palmscale.cli.config.load import load_run
    from palmscale.observe import log
    from palmscale.plan import run_plan
    from palmscale.plan.hardware import libtpu
    from palmscale.run import place

    log.set_up()
    place.set_environment(libtpu.ENVIRONMENT)  # before JAX starts, which may load libtpu
    run = load_run(args.gin_file, args.gin_bindings)
    if args.topology is None and run.layout.topology is None:
        return _measure(run)
    use_no_device()
    where = run_plan.topology_of(run, args.topology, args.slices)
    if args.generate:
        return _plan_generation(args, run, where)
    if args.search:
        from palmscale.cli.commands.plan_search import search

        return search(args, run, where)
    return _plan_training(args, run, where)


def use_no_device() -> None:
    """Keeps JAX from this machine's accelerators, which a run may hold."""
    import jax

    jax.config.update("jax_platforms", "cpu")


def _plan_training(args: argparse.Namespace, run: "Run", where: "Topology") -> int:
    from palmscale.plan import run_plan
    from palmscale.plan.report import files

    stages = []
    batch = int(args.batch) if args.batch.isdecimal() else args.batch
    for one in run_plan.plan_stages(
        run,
        where,
        batch=batch,
        dollars_per_chip_hour=args.dollars_per_chip_hour,
        save_to=args.save_step,
    ):
        stages.append(one)
        _print_plan(one)
        if not one.verdict.fits and args.suggest:
            from palmscale.cli.commands.plan_search import suggest

            suggest(run, where, one.verdict.batch_sequences, count=args.suggest)
    plans = run_plan.plans_of(run, stages)
    numbers, page = files.write(plans, args.workdir)
    print(f"\nThe plan is in {numbers}; to view it, open {page}")
    return 0 if plans.fits else DOES_NOT_FIT


def _print_plan(plan: "Plan") -> None:
    from palmscale.observe import units
    from palmscale.plan.report import lines, numbers
    from palmscale.plan.verdict import Fits

    print()
    tables.print_facts(lines.facts(plan))
    if not isinstance(plan.verdict, Fits):
        return
    moved = numbers.bytes_by_kind(plan.verdict.collectives)
    rows = [[name, units.size(size)] for name, size in moved.items() if size >= 2**20]
    if rows:
        print()
        tables.print_table(("collectives", "per step and device"), rows, right=(1,))
    for one in plan.verdict.unexpected_collectives[:8]:
        print(lines.unexpected_line(one))


def _plan_generation(args: argparse.Namespace, run: "Run", where: "Topology") -> int:
    from palmscale.plan.generation import plan_generation
    from palmscale.plan.report.generation import generation_facts

    found = plan_generation(run, where, workload(args))
    print()
    topology = f"{where}: {where.chips:,} chips, {where.hosts:,} hosts"
    tables.print_facts(generation_facts(found, topology))
    return 0 if found.fits else DOES_NOT_FIT


def _measure(run: "Run") -> int:
    from palmscale.plan import measure
    from palmscale.plan.report import lines

    measure.check_measurable()
    tables.print_facts(lines.measured_facts(measure.measure(run)))
    return 0
