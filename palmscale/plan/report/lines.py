"""Plans as lines and table rows for a person."""

from collections.abc import Callable, Iterable, Sequence

from palmscale.observe.units import size
from palmscale.plan.hardware.chips import GIB
from palmscale.plan.measure import Measurement
from palmscale.plan.plans import Cost, Plan
from palmscale.plan.program.memory import Held
from palmscale.plan.report import numbers
from palmscale.plan.verdict import (
    CollectiveUse,
    DoesNotFit,
    Fits,
    Placement,
    Prediction,
    Speed,
    UnexpectedCollective,
)

UNKNOWN_CLOCK = "unknown: the vendor states no clock of this chip"

Fact = tuple[str, str]


def facts(plan: Plan) -> list[Fact]:
    """Returns the answer as pairs of a name and its value."""
    verdict = plan.verdict
    mesh = " x ".join(f"{name}={size}" for name, size in verdict.mesh.items() if size > 1)
    batch = f"{verdict.batch_sequences:,} sequences of {verdict.sequence_length:,} tokens"
    host = verdict.memory
    return [
        ("topology", f"{verdict.topology}: {verdict.chips:,} chips, {verdict.hosts:,} hosts"),
        ("mesh", mesh or "one device"),
        *((f"  {name}", _where(place)) for name, place in verdict.placement.items()),
        ("batch", batch),
        ("memory", memory_line(verdict)),
        *_memory_parts(verdict),
        (
            "host memory",
            f"{host.host_bytes / GIB:.1f} GiB of {host.host_offered_bytes / GIB:.0f} for one"
            " checkpoint, the input and what a step saves there",
        ),
        *(
            ("replicated", f"{name}: every device holds the whole {size(held)}")
            for name, held in verdict.replicated_bytes.items()
        ),
        *_speed_facts(plan),
    ]


def memory_line(verdict: Fits | DoesNotFit) -> str:
    """Returns the verdict in one line."""
    needed, offered = verdict.memory.needed_bytes / GIB, verdict.memory.offered_bytes / GIB
    if verdict.fits:
        return f"fits: {needed:.2f} GiB of {offered:.2f} a device at peak"
    return (
        f"DOES NOT FIT: the step's own arrays need {needed:.2f} GiB and a device offers"
        f" {offered:.2f}: {needed / offered:.1f} times what there is"
    )


def unexpected_line(one: UnexpectedCollective) -> str:
    """Returns an unexpected collective in one line."""
    found = one.collective
    return (
        f"unexpected: {found.kind} over {found.axis} of {found.array},"
        f" {found.executions_per_step} a step: {one.why} ({found.source or 'no source'})"
    )


def measured_facts(measured: Measurement) -> list[Fact]:
    """Returns a measurement as pairs of a name and its value."""
    typical, seconds = measured.median_seconds, measured.step_seconds
    tokens = measured.tokens / typical / measured.devices
    found = [
        ("measured", f"on {measured.devices} x {measured.device_kind}, not predicted"),
        ("step time", f"{typical:.3f} s, {min(seconds):.3f} to {max(seconds):.3f}"),
        ("tokens", f"{tokens:,.0f} a second and device"),
    ]
    if measured.mfu is not None:
        found.append(("MFU (paper's)", f"{measured.mfu:.1%}"))
    if measured.peak_bytes is not None:
        limit = f" of {size(measured.limit_bytes)}" if measured.limit_bytes else ""
        found.append(("peak memory", f"{size(measured.peak_bytes)}{limit}"))
    return found


def collective_rows(found: Sequence[CollectiveUse]) -> tuple[list[str], list[list[str]]]:
    """Returns (headings, rows) of collectives, those that take the most time first."""
    headings = ["collective", "array", "a step", "MiB", "ms a step", "overlap", "pass", "source"]
    rows = [
        [
            f"{one.kind} {one.axis}",
            one.array,
            f"{one.executions_per_step:,}",
            f"{one.bytes / 2**20:,.1f}",
            f"{one.milliseconds_per_step:,.1f}",
            "yes" if one.asynchronous else "no",
            one.phase,
            one.source.rpartition("/")[2],
        ]
        for one in sorted(found, key=lambda one: -one.milliseconds_per_step)
        if one.bytes_per_step >= 2**20
    ]
    return headings, rows


def array_rows(arrays: Sequence[Held]) -> tuple[list[str], list[list[str]]]:
    """Returns (headings, rows) of the arrays that are alive at peak, the largest first."""
    headings = ["alive at peak", "count", "MiB", "made by", "source"]
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


def _where(place: Placement) -> str:
    over = f", {place.slices} slices over the data-center network" if place.slices > 1 else ""
    return f"torus {place.torus}{over}"


def _memory_parts(verdict: Fits | DoesNotFit) -> list[Fact]:
    if isinstance(verdict, Fits):
        memory = verdict.memory
        parts = {**memory.state_bytes, **memory.peak_bytes_by_kind}
        return [
            (f"  {kind}", f"{held / GIB:.2f} GiB")
            for kind, held in parts.items()
            if held >= GIB / 100
        ]
    return [
        (
            "  saved",
            f"{one.array} for the backward pass, {size(one.bytes_of_all_devices)} in all: at least"
            f" {size(one.bytes_of_all_devices / verdict.devices)} a device",
        )
        for one in verdict.memory.saved_arrays[:3]
    ]


def _speed_facts(plan: Plan) -> list[Fact]:
    if not isinstance(plan.verdict, Fits):
        return []
    prediction = plan.verdict.prediction
    if prediction is None:
        return [("step time", UNKNOWN_CLOCK)]
    bounds = (prediction.lower_bound, prediction.upper_bound)
    costs = [plan.cost(speed) for speed in bounds]

    def speed(value: Callable[[Speed], float], text: str) -> str:
        return _between(map(value, bounds), text)

    def cost(value: Callable[[Cost], float], text: str) -> str:
        return _between(map(value, costs), text)

    mfu, causal = speed(lambda s: s.mfu, "{:.1%}"), speed(lambda s: s.mfu_causal, "{:.1%}")
    days = cost(lambda c: c.days, "{:,.1f}")
    chip_hours = cost(lambda c: c.chip_hours, "{:,.0f}")
    tokens = speed(lambda s: s.tokens_per_second_per_chip, "{:,.1f}")
    lines = [
        ("prediction", numbers.PREDICTION),
        ("step time", f"{speed(lambda s: s.step_seconds, '{:.2f}')} s (lower and upper bound)"),
        *_part_facts(prediction),
        ("MFU (paper's)", f"{mfu}; causal {causal}"),
        ("HFU", speed(lambda s: s.hfu, "{:.1%}")),
        ("tokens", f"{tokens} a second and chip"),
        ("whole run", f"{days} days, {chip_hours} chip-hours"),
    ]
    if plan.dollars_per_chip_hour is not None:
        lines.append(("price", f"{cost(lambda c: c.dollars or 0.0, '{:,.0f}')} dollars"))
    return lines


def _part_facts(prediction: Prediction) -> list[Fact]:
    seconds = prediction.seconds
    kernels = f", {seconds.kernels:.2f} s of it in kernels" if seconds.kernels else ""
    exposed = ", ".join(
        f"{axis} {seconds.exposed_communication_lower_bound.get(axis, 0.0):.2f} to {most:.2f} s"
        for axis, most in seconds.exposed_communication_upper_bound.items()
        if most >= 0.005
    )
    compute = f"{seconds.compute_lower_bound:.2f} to {seconds.compute_upper_bound:.2f} s"
    return [("  compute", f"{compute}{kernels}"), ("  exposed communication", exposed or "none")]


def _between(values: Iterable[float], text: str) -> str:
    low, high = sorted(values)
    return f"{text.format(low)} to {text.format(high)}"
