"""A model of 11,000 parameters, and all that one train step of it needs, on any mesh."""

import contextlib
import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from palmscale import PaLM, axes
from palmscale.data.stream import Batch
from palmscale.optim.build import Adafactor
from palmscale.optim.schedules import InverseSqrt
from palmscale.partition.mesh import MeshSpec, layout, make_mesh
from palmscale.partition.rules import layout_rules
from palmscale.partition.shardings import spec
from palmscale.train.state import StatePlan, TrainState, plan_state
from palmscale.train.step import make_train_step

VOCABULARY, LENGTH, BOS = 32, 16, 1
MODEL = PaLM(
    num_tokens=VOCABULARY, dim=32, depth=2, heads=8, dim_head=4, ff_mult=2, query_chunk=LENGTH
)
OPTIMIZER = Adafactor(
    learning_rate=InverseSqrt(peak=1e-2, hold_steps=10_000),
    beta1=0.9,
    beta2_exponent=0.8,
    weight_decay_lr_exponent=2.0,
    clip_global_norm=1.0,
)
Z_LOSS = 1e-4


def targets(count, seed=0):
    """Token ids [count, LENGTH] that have something to learn: each row counts up, with gaps."""
    random = np.random.default_rng(seed)
    steps = random.integers(1, 3, (count, LENGTH)).cumsum(axis=1)
    return (steps % VOCABULARY).astype(np.int32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """A plan and its step on a mesh whose layout is entered."""

    mesh: Mesh
    rules: dict
    plan: StatePlan
    step: Callable

    def batch(self, target_BL, weight_BL=None):
        """The batch, each device with its rows."""
        names = (axes.BATCH, axes.LENGTH)
        sharding = NamedSharding(self.mesh, spec(names, self.rules))
        place = lambda a: None if a is None else jax.device_put(a, sharding)  # noqa: E731
        return Batch(target_BL=place(target_BL), weight_BL=place(weight_BL))

    def placed(self, state: TrainState) -> TrainState:
        """A copy of a state, of any placement, where the plan has it."""
        whole = jax.tree.map(np.asarray, state)
        return jax.device_put(whole, self.plan.shardings)


@contextlib.contextmanager
def training(
    data, model, *, module=MODEL, optimizer=OPTIMIZER, rules=None, trainable=(), **step_fields
):
    """Enters the `2d` layout on the first data x model devices."""
    mesh = make_mesh(MeshSpec(data=data, model=model), jax.devices()[: data * model])
    rules = rules or layout_rules("2d")
    fields = dict(bos_id=BOS, seed=0, z_loss=Z_LOSS, loss_chunk_length=LENGTH)
    with layout(mesh, rules):
        plan = plan_state(
            model=module, optimizer=optimizer, mesh=mesh, rules=rules, trainable=trainable
        )
        step = jax.jit(
            make_train_step(model=module, plan=plan, **fields | step_fields),
            donate_argnums=0,
            out_shardings=(plan.shardings, None),
        )
        yield Training(mesh=mesh, rules=rules, plan=plan, step=step)
