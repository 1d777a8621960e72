"""A plan of generation as lines for a person."""

from palmscale.observe.units import size
from palmscale.plan.generation import GenerationPlan, PhasePlan
from palmscale.plan.report import numbers
from palmscale.plan.report.lines import UNKNOWN_CLOCK, Fact, memory_line
from palmscale.plan.verdict import Fits


def generation_facts(plan: GenerationPlan, topology: str) -> list[Fact]:
    """Returns a plan of generation as pairs of a name and its value."""
    mesh = " x ".join(f"{name}={length}" for name, length in plan.mesh.items() if length > 1)
    return [
        ("topology", topology),
        ("mesh", mesh or "one device"),
        *_phase_facts("prompt", plan.prompt, "prompts"),
        *_phase_facts("one token", plan.one_token, "samples"),
    ]


def _phase_facts(name: str, phase: PhasePlan, sequences: str) -> list[Fact]:
    found = [
        (name, memory_line(phase.verdict)),
        ("  layout", f"{phase.choice.table}: {phase.choice.why}"),
        ("  weights", f"{size(phase.weight_bytes)} a device"),
        ("  cache", f"{size(phase.cache_bytes)} a device, {phase.sequences:,} {sequences}"),
    ]
    if not isinstance(phase.verdict, Fits):
        return found
    if phase.seconds is None:
        return [*found, ("  time", UNKNOWN_CLOCK)]
    low, high = phase.seconds
    tokens = phase.sequences * phase.new_tokens
    return [
        *found,
        ("  time", f"{low * 1e3:,.2f} to {high * 1e3:,.2f} ms, {numbers.PREDICTION}"),
        ("  reading", f"weights and cache take {phase.read_seconds * 1e3:,.2f} ms to read once"),
        ("  MFU", f"{phase.mfu(high):.1%} to {phase.mfu(low):.1%}"),
        ("  rate", f"{tokens / high:,.0f} to {tokens / low:,.0f} tokens a second, all {sequences}"),
    ]
