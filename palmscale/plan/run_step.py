"""A run's own train step, lowered for a topology."""

import functools

import jax

from palmscale.data.feed import batch_shapes
from palmscale.data.open import is_packed
from palmscale.model import interface
from palmscale.plan.hardware.libtpu import devices_of
from palmscale.plan.hardware.topology import Topology
from palmscale.plan.program.flops import matmul_flops
from palmscale.plan.program.saved_activations import saved_arrays
from palmscale.plan.step import Step
from palmscale.run.run import Run
from palmscale.run.session import compiled_step, plan_session
from palmscale.train.compile import digest


def lowered_step(run: Run, topology: Topology, sequences: int) -> Step:
    """Returns the run's train step for a batch of so many sequences, lowered for a topology.

    Raises:
        UserError: the mesh, the batch or a parameter does not divide; or libtpu cannot be used.
    """
    length = run.data.sequence_length
    with plan_session(run, devices_of(topology)) as session:
        layout, state_plan = session.layout, session.state_plan
        run.training.check_divides(sequences, layout.data_parallel)
        step = compiled_step(run, session)
        batch = batch_shapes(
            sequences, length, layout.batch_sharding, is_packed=is_packed(run.data)
        )
        traced = step.trace(batch)
        lowered = traced.lower()
    layers = interface.depth(run.model)
    shapes = {leaf.shape for leaf in jax.tree.leaves(state_plan.abstract.params)}
    weights, attention = session.flops_per_token
    return Step(
        compile=functools.partial(step.compile, lowered),
        digest=digest(lowered),
        mesh=layout.mesh,
        params=state_plan.abstract.params,
        optimizer_state=state_plan.abstract.optimizer_state,
        tokens=sequences * length,
        sequence_length=length,
        num_params=session.counts.model,
        weight_flops_per_token=weights,
        attention_flops_per_token=attention,
        matmul_flops=matmul_flops(traced),
        layers=layers,
        saved=tuple(saved_arrays(traced, layers, shapes)),
        vocabulary=interface.stored_tokens(run.model) or session.vocabulary.size,
    )
