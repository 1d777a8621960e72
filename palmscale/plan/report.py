"""A verdict as numbers for a program (`plan.json`) and as lines for a person."""

from collections.abc import Mapping, Sequence
from typing import Any

from palmscale.observe.units import size
from palmscale.plan.chips import GIB
from palmscale.plan.collectives import Collective
from palmscale.plan.memory import Held
from palmscale.plan.network import describe_path
from palmscale.plan.verdict import Speed, Verdict

PREDICTION = "predicted from the program, not measured on a TPU; see docs/planning_backtest.md"
UNKNOWN_CLOCK = "unknown: the vendor states no clock of this chip"


def to_json(verdict: Verdict, *, tokens_to_train: int, dollars_per_chip_hour: float | None) -> dict:
    """Returns everything that a plan says, as JSON values; what is not known is None.

    Args:
        verdict: of one step.
        tokens_to_train: the run's budget.
        dollars_per_chip_hour: None: no price.
    """
    step, topology = verdict.step, verdict.topology
    return {
        "topology": str(topology),
        "chips": topology.chips,
        "hosts": topology.hosts,
        "devices": topology.devices,
        "mesh": {name: int(size) for name, size in step.mesh.shape.items()},
        "placement": {
            name: {"torus": describe_path(path.extents, path.rings), "slices": path.slices}
            for name, path in verdict.placement.items()
        },
        "step_digest": step.digest,
        "batch_sequences": step.tokens // step.sequence_length,
        "sequence_length": step.sequence_length,
        "parameters": step.num_params,
        "fits": verdict.fits,
        "memory": _memory(verdict),
        "compute": {
            "model_flops": step.model_flops,
            "matmul_flops": step.matmul_flops,
            "cycles": verdict.cycles,
            "kernel_flops_per_device": verdict.kernel_flops,
        },
        "collective_bytes": bytes_by_kind(verdict.found),
        "collectives": [_collective(one, step.layers) for one in verdict.found],
        "surprises": [
            {"why": one.why, **_collective(one.collective, step.layers)}
            for one in verdict.surprises
        ],
        "replicated_bytes": verdict.replicated,
        "prediction": _prediction(verdict, tokens_to_train, dollars_per_chip_hour),
        "compile_cpu_seconds": verdict.compiled and round(verdict.compiled.cpu_seconds, 1),
    }


def _memory(verdict: Verdict) -> dict[str, Any]:
    compiled = verdict.compiled
    return {
        "needed_bytes": verdict.needed_bytes,
        "offered_bytes": verdict.offered_bytes,
        "state_bytes": verdict.state,
        "peak_bytes_by_kind": verdict.held,
        "argument_bytes": compiled and compiled.argument_bytes,
        "aliased_bytes": compiled and compiled.aliased_bytes,
        "temporary_bytes": compiled and compiled.temporary_bytes,
        "program_bytes": compiled and compiled.program_bytes,
        "saved_arrays": [
            {"array": f"{dtype}[{','.join(map(str, shape))}]", "bytes_of_all_devices": whole}
            for dtype, shape, whole in verdict.step.saved
        ],
        "host_bytes": verdict.host_bytes,
        "host_offered_bytes": verdict.topology.chip.host_bytes,
    }


def _collective(one: Collective, layers: int) -> dict[str, Any]:
    return {
        "kind": one.kind,
        "axis": one.axis,
        "array": one.array,
        "bytes": one.bytes,
        "executions_per_step": one.executions,
        "executions_per_layer": round(one.executions / layers, 2),
        "asynchronous": one.is_async,
        "phase": one.phase,
        "source": one.source,
        "op_name": one.op_name,
        "milliseconds": round(one.seconds * 1e3, 4),
    }


def bytes_by_kind(found: Sequence[Collective]) -> dict[str, int]:
    """Returns the bytes a chip and step of collectives, by kind, axis and whether they wait."""
    total: dict[str, int] = {}
    for one in found:
        key = f"{one.kind} over {one.axis}, {'asynchronous' if one.is_async else 'synchronous'}"
        total[key] = total.get(key, 0) + one.bytes_per_step
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def collective_rows(found: Sequence[Collective]) -> tuple[list[str], list[list[str]]]:
    """Returns (headings, rows) of collectives, those that take the most time first."""
    headings = ["collective", "array", "a step", "MiB", "ms a step", "runs", "pass", "source"]
    rows = [
        [
            f"{one.kind} {one.axis}",
            one.array,
            f"{one.executions:,}",
            f"{one.bytes / 2**20:,.1f}",
            f"{one.seconds * one.executions * 1e3:,.1f}",
            "beside" if one.is_async else "alone",
            one.phase,
            one.source.rpartition("/")[2],
        ]
        for one in sorted(found, key=lambda one: -one.seconds * one.executions)
        if one.bytes_per_step >= 2**20
    ]
    return headings, rows


def array_rows(arrays: Sequence[Held]) -> tuple[list[str], list[list[str]]]:
    """Returns (headings, rows) of what is alive at the fullest moment, the largest first."""
    headings = ["alive at the fullest moment", "count", "MiB", "made by", "source"]
    rows = [
        [
            f"{held.dtype}[{','.join(map(str, held.shape))}]",
            str(held.count),
            f"{held.bytes / 2**20:,.1f}",
            "/".join(held.op_name.split("/")[-2:]),
            held.source.rpartition("/")[2],
        ]
        for held in arrays
        if held.bytes >= 2**20
    ]
    return headings, rows


def _prediction(
    verdict: Verdict, tokens_to_train: int, dollars_per_chip_hour: float | None
) -> dict[str, Any] | None:
    times, at_best = verdict.times, verdict.at_best
    if times is None or at_best is None or verdict.fast is None or verdict.slow is None:
        return None

    def of(speed: Speed) -> dict[str, Any]:
        seconds = tokens_to_train / verdict.step.tokens * speed.seconds
        chip_hours = seconds / 3600 * verdict.topology.chips
        return {
            "step_seconds": speed.seconds,
            "mfu": speed.mfu,
            "mfu_causal": speed.mfu_causal,
            "hfu": speed.hfu,
            "tokens_per_second_per_chip": speed.tokens_per_second_per_chip,
            "days": seconds / 86400,
            "chip_hours": chip_hours,
            "dollars": dollars_per_chip_hour and dollars_per_chip_hour * chip_hours,
        }

    return {
        "label": PREDICTION,
        "at_best": of(verdict.fast),
        "if_nothing_overlaps": of(verdict.slow),
        "seconds": {
            "compute_at_best": at_best.compute,
            "compute": times.compute,
            "of_which_kernels": times.kernels,
            "waiting_at_best": dict(at_best.exposed),
            "moving": dict(times.moving),
        },
    }


def facts(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the lines of the answer for a person: pairs of a name and its value."""
    memory = plan["memory"]
    mesh = " x ".join(f"{name}={size}" for name, size in plan["mesh"].items() if size > 1)
    lines = [
        ("topology", f"{plan['topology']}: {plan['chips']:,} chips, {plan['hosts']:,} hosts"),
        ("mesh", mesh or "one device"),
    ]
    lines += [(f"  {name}", _where(place)) for name, place in plan["placement"].items()]
    lines += [
        (
            "batch",
            f"{plan['batch_sequences']:,} sequences of {plan['sequence_length']:,} tokens",
        ),
        ("memory", memory_line(memory, fits=plan["fits"])),
    ]
    if memory["argument_bytes"] is not None:
        lines += [
            (f"  {kind}", f"{held / GIB:.2f} GiB")
            for kind, held in _parts(memory)
            if held >= GIB / 100
        ]
    else:
        lines += [
            (
                "  saved",
                f"{one['array']} for the backward pass, {size(one['bytes_of_all_devices'])} in"
                f" all: at least {size(one['bytes_of_all_devices'] / plan['devices'])} a device",
            )
            for one in memory["saved_arrays"][:3]
        ]
    lines.append(
        (
            "host memory",
            f"{memory['host_bytes'] / GIB:.1f} GiB of {memory['host_offered_bytes'] / GIB:.0f} for"
            " one checkpoint, the input and what a step saves there",
        )
    )
    lines += [
        ("replicated", f"{name}: every device holds the whole {size(held)}")
        for name, held in plan["replicated_bytes"].items()
    ]
    return lines + _speed_lines(plan)


def memory_line(memory: Mapping[str, Any], *, fits: bool) -> str:
    """Returns the verdict in one line."""
    needed, offered = memory["needed_bytes"] / GIB, (memory["offered_bytes"] or 0) / GIB
    if fits:
        return f"fits: {needed:.2f} GiB of {offered:.2f} a device at the fullest moment"
    return (
        f"DOES NOT FIT: the step's own arrays need {needed:.2f} GiB and a device offers"
        f" {offered:.2f}, {needed / offered:.1f} times too much"
    )


def _where(place: Mapping[str, Any]) -> str:
    over = f", {place['slices']} slices over the data-center network" if place["slices"] > 1 else ""
    return f"torus {place['torus']}{over}"


def _parts(memory: Mapping[str, Any]) -> list[tuple[str, int]]:
    return [*memory["state_bytes"].items(), *memory["peak_bytes_by_kind"].items()]


def _speed_lines(plan: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not plan["fits"]:
        return []
    prediction = plan["prediction"]
    if prediction is None:
        return [("step time", UNKNOWN_CLOCK)]
    fast, slow = prediction["at_best"], prediction["if_nothing_overlaps"]
    seconds = prediction["seconds"]

    def between(key: str, text: str) -> str:
        low, high = sorted((slow[key], fast[key]))
        return f"{text.format(low)} to {text.format(high)}"

    kernels = seconds["of_which_kernels"]
    waits = ", ".join(
        f"{name} {seconds['waiting_at_best'].get(name, 0.0):.2f} to {moving:.2f} s"
        for name, moving in seconds["moving"].items()
        if moving >= 0.005
    )
    lines = [
        ("prediction", prediction["label"]),
        ("step time", f"{between('step_seconds', '{:.2f}')} s"),
        (
            "  compute",
            f"{seconds['compute_at_best']:.2f} to {seconds['compute']:.2f} s"
            f"{f', kernels {kernels:.2f} s of it' if kernels else ''}",
        ),
        ("  waiting for", waits or "nothing"),
        ("MFU (paper's)", f"{between('mfu', '{:.1%}')}; causal {between('mfu_causal', '{:.1%}')}"),
        ("HFU", between("hfu", "{:.1%}")),
        ("tokens", f"{between('tokens_per_second_per_chip', '{:,.1f}')} a second and chip"),
        (
            "whole run",
            f"{between('days', '{:,.1f}')} days, {between('chip_hours', '{:,.0f}')} chip-hours",
        ),
    ]
    if fast["dollars"]:
        lines.append(("price", f"{between('dollars', '{:,.0f}')} dollars"))
    return lines
