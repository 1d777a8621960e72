"""Plans generation: the prompt in one pass and the step of one token, compiled for a topology."""

import dataclasses

import jax
import jax.numpy as jnp

from palmscale import axes
from palmscale.infer.cache import empty_cache
from palmscale.infer.partition import generation_layout, placed
from palmscale.infer.programs import Slots, decode, prefill
from palmscale.infer.slot_rows import empty_rows
from palmscale.model import interface
from palmscale.observe import log
from palmscale.plan.hardware import libtpu
from palmscale.plan.hardware.topology import Topology
from palmscale.plan.judge import judge
from palmscale.plan.step import Step
from palmscale.plan.verdict import DoesNotFit, Fits
from palmscale.run.run import Run
from palmscale.train.compile import digest
from palmscale.train.state import abstract_params


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationPlan:
    """The verdicts on both programs of generation.

    Attributes:
        samples: continuations drawn side by side.
        prompt: the pass over the prompt.
        one_token: the step of one token, with a cache of twice the prompt.
    """

    samples: int
    prompt: Fits | DoesNotFit
    one_token: Fits | DoesNotFit

    @property
    def fits(self) -> bool:
        """Whether both programs fit."""
        return self.prompt.fits and self.one_token.fits


def plan_generation(
    run: Run, where: Topology, *, prompt_tokens: int = 2048, samples: int = 8
) -> GenerationPlan:
    """Returns whether a run's model can generate on a topology, and how fast.

    Raises:
        UserError: the model cannot generate, or libtpu cannot be used.
    """
    interface.check_generates(run.model)
    verdicts = {}
    with libtpu.compiler():
        for name, new_tokens in (("prompt", prompt_tokens), ("one token", 1)):
            log.say(f"Compiling {name} of {samples} sample(s) for {where}.")
            step = _step(run, where, samples, new_tokens, slots=2 * prompt_tokens)
            verdicts[name] = judge(step, where)
    return GenerationPlan(
        samples=samples, prompt=verdicts["prompt"], one_token=verdicts["one token"]
    )


def _step(run: Run, where: Topology, samples: int, new_tokens: int, slots: int) -> Step:
    """Returns a step of generation: `new_tokens` more, in a cache of so many slots."""
    model, mesh = run.model, run.layout.mesh
    boxed = abstract_params(model)
    spec = interface.cache_spec(model)
    sizes, devices = {axes.DATA: mesh.data, axes.MODEL: mesh.model}, libtpu.devices_of(where)
    layout = generation_layout(sizes, run.layout.table(), devices)
    params = placed(boxed, layout)
    sequences = samples if new_tokens == 1 else 1
    with layout.entered():
        cache = jax.eval_shape(lambda: empty_cache(spec, batch=sequences, positions=slots))
        if new_tokens == 1:
            token_B = jax.ShapeDtypeStruct((samples,), jnp.int32)
            state = Slots(cache=cache, token_B=token_B, rows=empty_rows(samples))
            active_B = jax.ShapeDtypeStruct((samples,), bool)
            lowered = decode.lower(model, {"params": params}, state, active_B, filters=False, top=0)
        else:
            tokens_1L = jax.ShapeDtypeStruct((1, new_tokens), jnp.int32)
            lowered = prefill.lower(model, {"params": params}, cache, tokens_1L, None)
    leaves = jax.tree.leaves(params)
    num_params = sum(leaf.size for leaf in leaves)
    return Step(
        compile=lowered.compile,
        digest=digest(lowered),
        mesh=leaves[0].sharding.mesh,
        params=params,
        optimizer_state={},
        tokens=sequences * new_tokens,
        sequence_length=new_tokens,
        num_params=num_params,
        weight_flops_per_token=2.0 * num_params,
        attention_flops_per_token=0.0,
        matmul_flops=2.0 * num_params * sequences * new_tokens,
        layers=spec.layers,
        vocabulary=interface.stored_tokens(model) or 0,
    )
