"""Plans generation: an engine's prefill and its decode step, compiled for a topology."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import NamedSharding

from palmscale import axes
from palmscale.infer.cache import empty_cache
from palmscale.infer.choose import Choice
from palmscale.infer.partition import generation_layout, parameter_bytes, phase, placed
from palmscale.infer.programs import Slots, decode, layers_apart, prefill
from palmscale.infer.slot_rows import empty_rows
from palmscale.infer.weights import abstract_form, form_on
from palmscale.model import interface, sizes
from palmscale.model.attention import Cache
from palmscale.observe import log
from palmscale.partition.layout import DeviceLayout
from palmscale.partition.shardings import spec
from palmscale.plan.hardware import libtpu
from palmscale.plan.hardware.topology import Topology
from palmscale.plan.judge import judge
from palmscale.plan.step import Step
from palmscale.plan.verdict import DoesNotFit, Fits
from palmscale.run.run import Run
from palmscale.train.compile import digest
from palmscale.train.state import abstract_params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """What is generated.

    Attributes:
        samples: continuations drawn side by side: the engine's slots.
        prompt_tokens: of a prompt, which is computed in one chunk.
        prompts: computed side by side; an engine computes one.
        context_tokens: of a prompt and its continuation, for which the cache has room; None: twice
            the prompt.
        quantize: `int8`, `int4` or `fp8` weights; None: in the module's dtype.
    """

    samples: int = 8
    prompt_tokens: int = 2048
    prompts: int = 1
    context_tokens: int | None = None
    quantize: str | None = None

    @property
    def positions(self) -> int:
        """S, the positions of the cache."""
        return self.context_tokens or 2 * self.prompt_tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhasePlan:
    """What is known of one program of an engine.

    Attributes:
        choice: its layout, and why.
        sequences: side by side.
        new_tokens: of each sequence.
        weight_bytes: a device.
        cache_bytes: a device.
        model_flops: of all devices: two for each parameter and token, as in Pope et al. 2022.
        read_seconds: in which a device reads its weights and its cache once: no step is faster.
        peak_flops: of all devices, a second.
        verdict: of the compiled program.
    """

    choice: Choice
    sequences: int
    new_tokens: int
    weight_bytes: int
    cache_bytes: int
    model_flops: float
    read_seconds: float
    peak_flops: float
    verdict: Fits | DoesNotFit

    @property
    def seconds(self) -> tuple[float, float] | None:
        """The lower and the upper bound of its time; None: it does not fit, or no clock is known.

        The compiler's cycles leave out weights that are read ahead. So no bound is below
        `read_seconds`, and at the upper one computation takes at least as long.
        """
        if not isinstance(self.verdict, Fits) or self.verdict.prediction is None:
            return None
        prediction = self.verdict.prediction
        unread = self.read_seconds - prediction.seconds.compute_upper_bound
        return (
            max(prediction.lower_bound.step_seconds, self.read_seconds),
            prediction.upper_bound.step_seconds + max(0.0, unread),
        )

    def mfu(self, seconds: float) -> float:
        """Returns the share of the devices' peak that the model's FLOPs take in so many seconds."""
        return self.model_flops / self.peak_flops / seconds


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationPlan:
    """The plans of both programs of generation.

    Attributes:
        mesh: size of each mesh axis.
        prompt: the pass over prompts.
        one_token: the step of one token of each sample.
    """

    mesh: dict[str, int]
    prompt: PhasePlan
    one_token: PhasePlan

    @property
    def fits(self) -> bool:
        """Whether both programs fit."""
        return self.prompt.verdict.fits and self.one_token.verdict.fits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generator:
    """A run's model as an engine holds it on a topology.

    Attributes:
        model: in the dtype in which it generates.
        variables: shapes with shardings.
        layout: of the variables.
        num_params: as the paper counts them.
    """

    model: nn.Module
    variables: Any
    layout: DeviceLayout
    num_params: int


def plan_generation(run: Run, where: Topology, workload: Workload) -> GenerationPlan:
    """Returns whether a run's model can generate on a topology, and how fast.

    Raises:
        UserError: the model cannot generate, or libtpu cannot be used.
    """
    with libtpu.compiler():
        generator = generator_on(run, where, quantize=workload.quantize)
        prompt = plan_phase(
            generator,
            where,
            sequences=workload.prompts,
            new_tokens=workload.prompt_tokens,
            positions=workload.positions,
        )
        one_token = plan_phase(
            generator, where, sequences=workload.samples, new_tokens=1, positions=workload.positions
        )
    mesh = {name: int(size) for name, size in generator.layout.mesh.shape.items()}
    return GenerationPlan(mesh=mesh, prompt=prompt, one_token=one_token)


def generator_on(run: Run, where: Topology, *, quantize: str | None = None) -> Generator:
    """Returns a run's model, laid out on a topology as an engine would lay it out.

    Args:
        run: whose model it is.
        where: the topology.
        quantize: `int8`, `int4` or `fp8` weights; None: in the module's dtype.

    Raises:
        UserError: the model cannot generate or be quantized, or libtpu cannot be used.
    """
    interface.check_generates(run.model)
    boxed, mesh = abstract_params(run.model), run.layout.mesh
    layout = generation_layout(
        run.model,
        boxed,
        trained_mesh={axes.DATA: mesh.data, axes.MODEL: mesh.model},
        trained_rules=run.layout.table(),
        devices=libtpu.devices_of(where),
    )
    model, variables = abstract_form(
        run.model, placed(boxed, layout), **form_on("tpu"), quantize=quantize
    )
    return Generator(
        model=model,
        variables=variables,
        layout=layout,
        num_params=sizes.count_parameters(boxed, run.model).model,
    )


def plan_phase(
    generator: Generator, where: Topology, *, sequences: int, new_tokens: int, positions: int
) -> PhasePlan:
    """Returns the plan of one of the engine's programs; `libtpu.compiler` is entered.

    Args:
        generator: on the topology's devices.
        where: the topology.
        sequences: side by side.
        new_tokens: of each; 1 is a decode step.
        positions: of the cache.
    """
    what = "one token" if new_tokens == 1 else f"{new_tokens:,} tokens"
    log.say(f"Compiling {what} of {sequences:,} sequence(s) for {where}.")
    weight_bytes = parameter_bytes(generator.variables) / generator.num_params
    layout, choice = phase(
        generator.model,
        generator.layout,
        sequences=sequences,
        new_tokens=new_tokens,
        weight_bytes=weight_bytes,
    )
    step, cache = _step(generator, layout, sequences, new_tokens, positions)
    held = {"weights": generator.variables, "cache": cache}
    held_bytes = {name: _device_bytes(tree) for name, tree in held.items()}
    chip = where.chip
    return PhasePlan(
        choice=choice,
        sequences=sequences,
        new_tokens=new_tokens,
        weight_bytes=held_bytes["weights"],
        cache_bytes=held_bytes["cache"],
        model_flops=step.matmul_flops,
        read_seconds=sum(held_bytes.values()) * chip.devices / chip.hbm_bytes_per_second,
        peak_flops=where.chips * chip.peak_flops,
        verdict=judge(step, where),
    )


def _step(
    generator: Generator, layout: DeviceLayout, sequences: int, new_tokens: int, positions: int
) -> tuple[Step, Cache]:
    """Returns a lowered program of the engine, and the shapes of its cache."""
    model, variables = generator.model, generator.variables
    cache_spec = interface.cache_spec(model)
    with layout.entered():
        apart = layers_apart(model, variables)
        cache = cache_shapes(
            layout,
            lambda: empty_cache(cache_spec, batch=sequences, positions=positions, apart=apart),
        )
        if new_tokens == 1:
            token_B = jax.ShapeDtypeStruct((sequences,), jnp.int32)
            slots = Slots(cache=cache, token_B=token_B, rows=empty_rows(sequences))
            active_B = jax.ShapeDtypeStruct((sequences,), bool)
            lowered = decode.lower(model, variables, slots, active_B, filters=False, top=0)
        else:
            tokens_BL = jax.ShapeDtypeStruct((sequences, new_tokens), jnp.int32)
            lowered = prefill.lower(model, variables, cache, tokens_BL, None)
    flops_per_token = 2.0 * generator.num_params
    step = Step(
        compile=lowered.compile,
        digest=digest(lowered),
        mesh=layout.mesh,
        params=variables,
        optimizer_state={},
        tokens=sequences * new_tokens,
        sequence_length=new_tokens,
        num_params=generator.num_params,
        weight_flops_per_token=flops_per_token,
        attention_flops_per_token=0.0,
        matmul_flops=flops_per_token * sequences * new_tokens,
        layers=cache_spec.layers,
        vocabulary=interface.stored_tokens(model) or 0,
    )
    return step, cache


def cache_shapes(layout: DeviceLayout, empty: Callable[[], Cache]) -> Cache:
    """Returns the shapes of a cache with their shardings in a layout.

    Args:
        layout: of the phase.
        empty: returns the cache, of arrays [N, B, S, K] or [B, S, K] and lengths [B].
    """
    names = {1: (None,), 3: (axes.CACHE_BATCH, None, None), 4: (None, axes.CACHE_BATCH, None, None)}

    def on_devices(shape: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(layout.mesh, spec(names[shape.ndim], layout.rules))
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    return jax.tree.map(on_devices, jax.eval_shape(empty))


def _device_bytes(tree: Any) -> int:
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
