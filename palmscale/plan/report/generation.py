"""A plan of generation as lines for a person."""

import jax.numpy as jnp

from palmscale import axes
from palmscale.infer.choose import choose_layout
from palmscale.infer.partition import generation_storage, known_dimensions
from palmscale.model import interface
from palmscale.observe.units import size
from palmscale.partition.shardings import audit
from palmscale.plan.generation import GenerationPlan, PhasePlan, Workload
from palmscale.plan.report import numbers
from palmscale.plan.report.lines import UNKNOWN_CLOCK, Fact, memory_line
from palmscale.plan.verdict import Fits
from palmscale.run.run import Run
from palmscale.train.state import abstract_params


def generation_facts(plan: GenerationPlan, topology: str) -> list[Fact]:
    """Returns a plan of generation as pairs of a name and its value."""
    mesh = " x ".join(f"{name}={length}" for name, length in plan.mesh.items() if length > 1)
    return [
        ("topology", topology),
        ("mesh", mesh or "one device"),
        *_phase_facts("prompt", plan.prompt, "prompts"),
        *_phase_facts("one token", plan.one_token, "samples"),
    ]


def layout_facts(run: Run, num_devices: int, slices: int, workload: Workload) -> list[Fact]:
    """Returns where generation puts a run's model on so many devices, and why; nothing is compiled.

    Raises:
        UserError: the model cannot generate.
    """
    interface.check_generates(run.model)
    boxed, mesh = abstract_params(run.model), run.layout.mesh
    axis_sizes, rules = generation_storage(
        run.model,
        boxed,
        trained_mesh={axes.DATA: mesh.data, axes.MODEL: mesh.model},
        trained_rules=run.layout.table(),
        num_devices=num_devices,
        slices=slices,
    )
    held = sum(array.bytes_per_device for array in audit(boxed, axis_sizes, rules))
    dtype = interface.cache_spec(run.model).dtype
    held = held * jnp.dtype(dtype).itemsize / 4  # parameters are trained in float32
    found = [
        ("generation", " x ".join(f"{name}={length}" for name, length in axis_sizes.items())),
        ("  weights", f"{size(held)} a device in {dtype}, in every phase"),
    ]
    for name, sequences, new_tokens in (
        ("prefill", workload.prompts, workload.prompt_tokens),
        ("decode", workload.samples, 1),
    ):
        choice = choose_layout(
            rules,
            axis_sizes,
            dimensions=known_dimensions(run.model, boxed),
            sequences=sequences,
            new_tokens=new_tokens,
        )
        found.append((f"  {name}", f"{choice.table}: {choice.why}"))
    return found


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
