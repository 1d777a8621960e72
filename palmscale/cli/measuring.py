"""Plans by measuring: a few steps of a run on the accelerators of this machine, made-up tokens."""

import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from palmscale.cli import tables
from palmscale.cli.rows import is_packed
from palmscale.cli.run import Run
from palmscale.cli.wiring import compiled_step, setting_without_rows
from palmscale.data.feed import batch_shapes
from palmscale.errors import UserError
from palmscale.observe import log, units
from palmscale.observe.throughput import peak_flops_per_device
from palmscale.train.state import init_state

_STEPS = 5


def measure(run: Run) -> int:
    """Measures the largest batch of a run on this machine's GPUs, and prints what came out.

    Raises:
        UserError: there is no GPU; with what cannot be known then.
    """
    if jax.default_backend() == "cpu":
        raise UserError(
            "no topology is named and there is no GPU here: whether activations fit a GPU and how"
            " fast a step is cannot be known without one - name TPUs with --topology=v5e-256, or"
            " plan on a machine with the GPU; palmscale explain tells what the state alone takes"
        )
    print_facts_of(run, max(sequences for _, sequences in run.batch_schedule.stages))
    return 0


def print_facts_of(run: Run, sequences: int) -> None:
    """Runs a few steps on this machine's devices, and prints their time and memory."""
    with setting_without_rows(run) as here:
        plan, devices = here.plan, here.mesh.size
        log.say(f"Measuring {_STEPS} steps of {sequences:,} sequences on {devices} device(s).")
        shapes = batch_shapes(
            sequences,
            run.data.sequence_length,
            here.batch_sharding,
            is_packed=is_packed(run.data),
        )
        batch = jax.tree.map(
            lambda leaf: jax.device_put(jnp.zeros(leaf.shape, leaf.dtype), leaf.sharding), shapes
        )
        step = compiled_step(here)
        step.prepare(shapes)
        state = init_state(plan, run.model, seed=run.seed)
        seconds = []
        for _ in range(_STEPS + 1):  # the first warms up
            began = time.perf_counter()
            state, metrics = step(state, batch)
            jax.block_until_ready(metrics)
            seconds.append(time.perf_counter() - began)
    num_params = sum(leaf.size for leaf in jax.tree.leaves(plan.abstract.params))
    tables.print_facts(_facts(run, sequences, seconds[1:], num_params))


def _facts(
    run: Run, sequences: int, seconds: Sequence[float], num_params: int
) -> list[tuple[str, str]]:
    device = jax.devices()[0]
    typical = sorted(seconds)[len(seconds) // 2]
    tokens = sequences * run.data.sequence_length
    attention = getattr(run.model, "attention_flops_per_token", lambda sequence_length: 0)
    flops = tokens * (6 * num_params + attention(run.data.sequence_length))
    facts = [
        ("measured", f"on {jax.device_count()} x {device.device_kind}, not predicted"),
        ("step time", f"{typical:.3f} s, {min(seconds):.3f} to {max(seconds):.3f}"),
        ("tokens", f"{tokens / typical / jax.device_count():,.0f} a second and device"),
    ]
    peak = run.reporting.peak_flops_per_device or peak_flops_per_device(device.device_kind)
    if peak:
        facts.append(("MFU (paper's)", f"{flops / typical / (peak * jax.device_count()):.1%}"))
    memory = device.memory_stats() or {}
    if "peak_bytes_in_use" in memory:
        limit = memory.get("bytes_limit", 0)
        used = units.size(memory["peak_bytes_in_use"])
        facts.append(("memory", f"{used} of {units.size(limit)} at the fullest moment"))
    return facts
