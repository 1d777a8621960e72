"""`palmscale explain`: where every parameter lies and what it costs, without the devices."""

import argparse
import math
from typing import TYPE_CHECKING, Any

from palmscale.cli.commands.plan import (
    add_generation,
    add_topology,
    use_no_device,
    workload,
)
from palmscale.cli.parser import add_command
from palmscale.errors import UserError
from palmscale.observe import tables, units

if TYPE_CHECKING:
    from palmscale.partition.layout import Layout
    from palmscale.run.run import Run


def add(commands: Any) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "explain",
        explain,
        "Show where every parameter lives, and its bytes per device.",
        gin=True,
    )
    command.add_argument(
        "--settings",
        action="store_true",
        help="show every setting instead: its value, where it is set, and what it means",
    )
    command.add_argument(
        "--compiled",
        action="store_true",
        help="compile the step for its topology too, and show its collectives and largest arrays",
    )
    add_generation(command, "show where generation puts weights and cache instead, and why")
    add_topology(command)


def explain(args: argparse.Namespace) -> None:
    """Prints every parameter's layout and the totals; with --compiled, the program too.

    With --settings, prints the run's settings, and with --generate the layouts of generation, and
    nothing else.
    """
    from palmscale.cli.config.load import load_run, settings
    from palmscale.observe import log
    from palmscale.plan.report.state import StateLayout

    log.set_up()
    run = load_run(args.gin_file, args.gin_bindings)
    if args.settings:
        headings = ("setting", "value", "set in", "meaning")
        rows = [setting.row() for setting in settings()]
        tables.print_table(headings, rows, piped_width=1000)  # a line each, to search in
        return
    if args.generate:
        _explain_generation(args, run)
        return
    state = StateLayout.of(run, axis_sizes(run.layout))
    tables.print_table(*state.parameter_rows(), right=(4,))
    print()
    tables.print_facts(state.facts())
    if args.compiled:
        _explain_program(args, run)


def _explain_generation(args: argparse.Namespace, run: "Run") -> None:
    """Prints the layouts of generation on a topology, or on as many devices as the mesh has."""
    from palmscale.plan import run_plan
    from palmscale.plan.report.generation import layout_facts

    if args.topology or run.layout.topology:
        use_no_device()
        where = run_plan.topology_of(run, args.topology, args.slices)
        num_devices, slices = where.devices, where.slices
    else:
        num_devices, slices = math.prod(axis_sizes(run.layout).values()), 1
    tables.print_facts(layout_facts(run, num_devices, slices, workload(args)))


def axis_sizes(layout: "Layout") -> dict[str, int]:
    """Returns the mesh's size along each axis; counts this machine's devices only where one is -1.

    Raises:
        UserError: the mesh does not fit the devices that are counted or simulated.
    """
    import jax

    from palmscale.run import devices

    num_devices = layout.simulated_devices
    stated = (layout.mesh.replicas, layout.mesh.data, layout.mesh.model)
    if num_devices is None and -1 in stated:
        devices.start(None)
        num_devices = jax.device_count()
    else:
        # Tracing makes a random key somewhere; a run on this machine may hold the accelerators.
        use_no_device()
    return layout.axis_sizes(num_devices)


def _explain_program(args: argparse.Namespace, run: "Run") -> None:
    """Prints what the compiler made of a run's step: its collectives, and its memory at peak."""
    from palmscale.plan import run_plan
    from palmscale.plan.report import lines
    from palmscale.plan.verdict import Fits

    use_no_device()
    where = run_plan.topology_of(run, args.topology, args.slices)
    verdict = run_plan.verdict_of(run, where, run_plan.batches(run, "largest")[0])
    print()
    if not isinstance(verdict, Fits):
        raise UserError(
            f"the step does not fit {where}, so there is no program to explain: it needs"
            f" {units.size(verdict.memory.needed_bytes)} of"
            f" {units.size(verdict.memory.offered_bytes)} a device; see palmscale plan."
        )
    tables.print_table(*lines.collective_rows(verdict.collectives), right=(2, 3, 4))
    print()
    tables.print_table(*lines.array_rows(verdict.memory.peak_arrays), right=(1, 2))
