"""Measures in place of planning: a few steps of a run on this machine's devices, made-up tokens."""

import dataclasses
import time

import jax
import jax.numpy as jnp

from palmscale.data.feed import batch_shapes
from palmscale.data.open import is_packed
from palmscale.errors import UserError
from palmscale.observe import log
from palmscale.observe.throughput import peak_flops_per_device
from palmscale.plan.run_plan import batches
from palmscale.run.run import Run
from palmscale.run.session import compiled_step, plan_session
from palmscale.train.state import init_state

_STEPS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a few steps took.

    Attributes:
        device_kind: as JAX names it.
        devices: of the mesh.
        step_seconds: of each step, in their order.
        tokens: a step.
        mfu: at the median; None where the peak of the device is unknown.
        peak_bytes: peak memory of a device; None where the device does not report it.
        limit_bytes: memory of a device that JAX may use; None likewise.
    """

    device_kind: str
    devices: int
    step_seconds: tuple[float, ...]
    tokens: int
    mfu: float | None
    peak_bytes: int | None
    limit_bytes: int | None

    @property
    def median_seconds(self) -> float:
        """Of a step."""
        return sorted(self.step_seconds)[len(self.step_seconds) // 2]


def check_measurable() -> None:
    """Checks that this machine has devices worth measuring.

    Raises:
        UserError: it has CPUs alone.
    """
    if jax.default_backend() == "cpu":
        raise UserError(
            "no topology is named and there is no GPU here, so neither whether activations fit nor"
            " how fast a step is can be known; name TPUs, for example v5e-256, as the topology, or"
            " measure on a machine with the GPU. `palmscale explain` shows what the state takes."
        )


def measure(run: Run, sequences: int | None = None) -> Measurement:
    """Runs a few steps on this machine's devices, and returns their time and memory.

    Args:
        run: to measure.
        sequences: a step; None: the largest batch of the schedule.

    Raises:
        UserError: the parts of the run do not fit one another or the devices.
    """
    sequences = batches(run, "largest")[0] if sequences is None else sequences
    with plan_session(run) as session:
        layout = session.layout
        run.training.check_divides(sequences, layout.data_parallel)
        log.say(
            f"Measuring {_STEPS} steps of {sequences:,} sequences on {layout.mesh.size} device(s)."
        )
        shapes = batch_shapes(
            sequences,
            run.data.sequence_length,
            layout.batch_sharding,
            is_packed=is_packed(run.data),
        )
        batch = jax.tree.map(
            lambda leaf: jax.device_put(jnp.zeros(leaf.shape, leaf.dtype), leaf.sharding), shapes
        )
        step = compiled_step(run, session)
        step.prepare(shapes)
        state = init_state(session.state_plan, run.model, seed=run.training.seed)
        seconds = []
        for _ in range(_STEPS + 1):  # the first warms up
            began = time.perf_counter()
            state, metrics = step(state, batch)
            jax.block_until_ready(metrics)
            seconds.append(time.perf_counter() - began)
    device = layout.mesh.devices.flat[0]
    memory = device.memory_stats() or {}
    measured = Measurement(
        device_kind=device.device_kind,
        devices=layout.mesh.size,
        step_seconds=tuple(seconds[1:]),
        tokens=sequences * run.data.sequence_length,
        mfu=None,
        peak_bytes=memory.get("peak_bytes_in_use"),
        limit_bytes=memory.get("bytes_limit"),
    )
    peak = run.reporting.peak_flops_per_device or peak_flops_per_device(device.device_kind)
    if peak is None:
        return measured
    flops = measured.tokens * sum(session.flops_per_token)
    mfu = flops / measured.median_seconds / (peak * measured.devices)
    return dataclasses.replace(measured, mfu=mfu)
