"""Plans generation: the prompt in one pass and the step of one token, compiled for a topology."""

import argparse
import functools

import jax
import jax.numpy as jnp

from palmscale import axes
from palmscale.cli import tables
from palmscale.cli.planning import devices_of
from palmscale.cli.run import Run
from palmscale.errors import UserError
from palmscale.infer.cache import empty_cache
from palmscale.infer.generate import next_token
from palmscale.infer.partition import spread
from palmscale.infer.sampling import Sampling
from palmscale.observe import log
from palmscale.plan import report
from palmscale.plan.chips import GIB
from palmscale.plan.topology import Topology
from palmscale.plan.verdict import Step, Verdict, judge
from palmscale.train.compiled import digest
from palmscale.train.state import abstract_params


def plan_generation(args: argparse.Namespace, run: Run, where: Topology) -> int:
    """Prints whether a model can generate on a topology, and how fast; 1 where it does not fit."""
    if not hasattr(run.model, "extend"):
        raise UserError(
            f"{type(run.model).__name__} cannot generate: it has no extend(tokens_BL, cache) - plan"
            " its training, or add one as palmscale.model.palm.PaLM has"
        )
    facts = [("topology", f"{where}: {where.chips:,} chips, {where.hosts:,} hosts")]
    fits = True
    for name, new_tokens in (("prompt", args.prompt_tokens), ("one token", 1)):
        log.say(f"Compiling {name} of {args.num_samples} sample(s) for {where}.")
        verdict = judge(_step(run, where, args, new_tokens), where)
        fits &= verdict.fits
        facts += _facts(name, verdict, args.num_samples)
    print()
    tables.print_facts(facts)
    return 0 if fits else 1


def _step(run: Run, where: Topology, args: argparse.Namespace, new_tokens: int) -> Step:
    """Returns a step of generation: `new_tokens` more behind what the cache has room for."""
    model, samples = run.model, args.num_samples
    mesh = run.layout.mesh
    boxed = abstract_params(model)
    cache = jax.eval_shape(
        functools.partial(
            empty_cache,
            layers=model.depth,
            batch=samples,
            slots=2 * args.prompt_tokens,
            head_dim=model.dim_head,
            dtype=model.dtype,
        )
    )
    tokens_BL = jax.ShapeDtypeStruct((samples, new_tokens), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    with spread(boxed, {axes.DATA: mesh.data, axes.MODEL: mesh.model}, devices_of(where)) as params:
        lowered = next_token.lower(model, Sampling(), params, tokens_BL, cache, key)
    leaf = jax.tree.leaves(params)[0]
    num_params = sum(leaf.size for leaf in jax.tree.leaves(params))
    return Step(
        compile=lowered.compile,
        digest=digest(lowered),
        mesh=leaf.sharding.mesh,
        params=params,
        optimizer_state={},
        tokens=samples * new_tokens,
        sequence_length=new_tokens,
        num_params=num_params,
        attention_flops_per_token=0.0,
        matmul_flops=2.0 * num_params * samples * new_tokens,
        layers=model.depth,
        vocabulary=getattr(model, "stored_tokens", model.num_tokens),
    )


def _facts(name: str, verdict: Verdict, samples: int) -> list[tuple[str, str]]:
    memory = {"needed_bytes": verdict.needed_bytes, "offered_bytes": verdict.offered_bytes}
    facts = [(name, report.memory_line(memory, fits=verdict.fits))]
    if not verdict.fits:
        return facts
    facts.append(("  parameters", f"{verdict.state['parameters'] / GIB:.2f} GiB"))
    if verdict.fast is None or verdict.slow is None:
        return [*facts, ("  time", report.UNKNOWN_CLOCK)]
    low, high = verdict.fast.seconds, verdict.slow.seconds
    facts.append(("  time", f"{low * 1e3:,.2f} to {high * 1e3:,.2f} ms, {report.PREDICTION}"))
    if verdict.step.sequence_length == 1:
        rate = f"{samples / high:,.0f} to {samples / low:,.0f} tokens a second, all samples"
        facts.append(("  rate", rate))
    return facts
