"""`palmscale explain`: where every parameter lies and what it costs, without the devices."""

import argparse
import math
from collections.abc import Mapping, Sequence

import jax

from palmscale import axes
from palmscale.cli import devices, tables
from palmscale.cli.run import Layout, Run, load_run
from palmscale.observe import units
from palmscale.partition.rules import TABLES, MeshAxes, layout_rules
from palmscale.partition.shardings import ArrayLayout, audit
from palmscale.train.state import abstract_state


def explain(args: argparse.Namespace) -> None:
    """`palmscale explain`: prints every parameter's layout, the totals, and what is in copies."""
    run = load_run(args.gin_file, args.gin_bindings)
    sizes = axis_sizes(run.layout)
    run.check_batches(sizes[axes.REPLICA] * sizes[axes.DATA])
    rules = layout_rules(run.layout.rules, run.layout.overrides)
    state, _ = abstract_state(run.model, run.optimizer)
    params = audit(state.params, sizes, rules)
    _print_params(params)
    optimizer_state = audit(state.optimizer_state, sizes, rules)
    facts = [*_layout_facts(run, sizes), *_counts(run, params)]
    facts += _bytes_facts(run, params, optimizer_state)
    print()
    tables.print_facts([*facts, *_copies(params, optimizer_state, sizes)])


def axis_sizes(layout: Layout) -> dict[str, int]:
    """Returns the mesh's size along each axis; counts this machine's devices only where one is -1.

    Raises:
        UserError: the mesh does not fit the devices that are counted or simulated.
    """
    mesh, num_devices = layout.mesh, layout.simulated_devices
    stated = (mesh.replicas, mesh.data, mesh.model)
    if num_devices is None and -1 in stated:
        devices.start(None)
        num_devices = jax.device_count()
    else:
        # Tracing makes a random key somewhere; a run on this machine may hold the accelerators.
        jax.config.update("jax_platforms", "cpu")
    shape = mesh.shape(math.prod(stated) if num_devices is None else num_devices)
    return dict(zip((axes.REPLICA, axes.DATA, axes.MODEL), shape, strict=True))


def num_params(params: Sequence[ArrayLayout], num_tokens: int | None = None) -> int:
    """Returns the number of parameters without norm scales, as the paper counts them.

    With `num_tokens` the vocabulary's other rows, which are padding, are not counted either.
    """

    def counted(array: ArrayLayout) -> int:
        if axes.NORM in array.names:
            return 0
        dims = zip(array.shape, array.names, strict=True)
        return math.prod(
            min(size, num_tokens) if num_tokens and name == axes.VOCAB else size
            for size, name in dims
        )

    return sum(map(counted, params))


def _print_params(params: Sequence[ArrayLayout]) -> None:
    rows = [
        [
            array.name,
            " ".join(map(str, array.shape)),
            " ".join(name or "-" for name in array.names),
            " ".join(map(_axes_text, array.mesh_axes)),
            units.size(array.bytes_per_device),
        ]
        for array in params
    ]
    headings = ("parameter", "shape", "logical axes", "mesh axes", "a device")
    tables.print_table(headings, rows, right=(4,))


def _layout_facts(run: Run, sizes: Mapping[str, int]) -> list[tuple[str, str]]:
    mesh = " x ".join(f"{name}={size}" for name, size in sizes.items())
    rules = run.layout.rules
    changed = [
        f"{name} -> {_axes_text(target)}"
        for name, target in run.layout.overrides.items()
        if TABLES[rules].get(name) != target
    ]
    return [
        ("mesh", f"{math.prod(sizes.values()):,} device(s): {mesh}"),
        ("rules", f"{rules}{', with ' if changed else ''}{', '.join(changed)}"),
    ]


def _counts(run: Run, params: Sequence[ArrayLayout]) -> list[tuple[str, str]]:
    stored = sum(math.prod(array.shape) for array in params)
    facts = [("parameters", f"{stored:,} stored")]
    without_norms = num_params(params)
    if without_norms != stored:
        facts.append(("", f"{without_norms:,} without norm scales"))
    num_tokens = getattr(run.model, "num_tokens", None)
    without_padding = num_params(params, num_tokens)
    if without_padding != without_norms:
        facts.append(
            ("", f"{without_padding:,} without norm scales and padding past {num_tokens:,} tokens")
        )
    return facts


def _bytes_facts(
    run: Run, params: Sequence[ArrayLayout], optimizer_state: Sequence[ArrayLayout]
) -> list[tuple[str, str]]:
    facts = []
    for name, of in (("a device", "bytes_per_device"), ("in all", "bytes")):
        first, second = (
            sum(getattr(array, of) for array in arrays) for arrays in (params, optimizer_state)
        )
        facts.append(
            (
                name,
                f"{units.size(first + second)}: parameters {units.size(first)}, "
                f"{type(run.optimizer).__name__} state {units.size(second)}",
            )
        )
    return facts


def _copies(
    params: Sequence[ArrayLayout],
    optimizer_state: Sequence[ArrayLayout],
    sizes: Mapping[str, int],
) -> list[tuple[str, str]]:
    """Returns the facts of what is not split over all devices of a replica, largest first."""
    replicas, num_devices = sizes[axes.REPLICA], math.prod(sizes.values())
    facts = [("copies", f"{replicas} of everything, one a replica")] if replicas > 1 else []
    everything = [*params, *optimizer_state]
    for copies in sorted({array.copies for array in everything if array.copies > replicas}):
        alike = [array for array in everything if array.copies == copies]
        held = sum(array.bytes_per_device for array in alike)
        names = ", ".join(array.name for array in params if array.copies == copies)
        where = "replicated" if copies == num_devices else f"{copies:,} copies"
        facts.append(
            (
                where,
                f"{units.size(held)} a device, optimizer state included: {names or 'counters'}",
            )
        )
    return facts


def _axes_text(target: MeshAxes) -> str:
    return "-" if target is None else target if isinstance(target, str) else "+".join(target)
