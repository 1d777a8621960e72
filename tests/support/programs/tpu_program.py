"""Compiles a small model's train step for four TPUs that are not there, and prints the program.

Its arguments are JSON: the fields of the model, layout rules, compiler options. It needs a process
of its own, because libtpu does, and the environment that `ENVIRONMENT` states.
"""

import json
import sys

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from tiny_training import BOS, OPTIMIZER, Z_LOSS

from palmscale import PaLM, axes
from palmscale.data.stream import Batch
from palmscale.partition.mesh import MeshSpec, layout, make_mesh
from palmscale.partition.rules import layout_rules
from palmscale.partition.shardings import spec
from palmscale.plan.hardware.libtpu import ENVIRONMENT as ABSENT_TPUS
from palmscale.plan.hardware.topology import parse
from palmscale.train.compile import CompiledStep
from palmscale.train.state import plan_state
from palmscale.train.step import make_train_step

# Before JAX starts.
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", **ABSENT_TPUS}
SEQUENCES, LENGTH, VOCABULARY, DIM = 8, 256, 4096, 512
FIELDS = dict(
    num_tokens=VOCABULARY, dim=DIM, depth=2, heads=4, dim_head=128, dtype="bfloat16", remat="full"
)


def program(fields, overrides, options):
    """The text of the program that XLA makes of the step, on data 2 x model 2."""
    devices = parse("v5e:2x2").describe()
    model = PaLM(**FIELDS | fields)
    mesh, rules = make_mesh(MeshSpec(data=2, model=2), devices), layout_rules("2d", overrides)
    with layout(mesh, rules):
        plan = plan_state(model=model, optimizer=OPTIMIZER, mesh=mesh, rules=rules)
        step = make_train_step(
            model=model,
            plan=plan,
            bos_id=BOS,
            seed=0,
            z_loss=Z_LOSS,
            loss_chunk_length=LENGTH // 2,
        )
        sharding = NamedSharding(mesh, spec((axes.BATCH, axes.LENGTH), rules))
        target_BL = jax.ShapeDtypeStruct((SEQUENCES, LENGTH), jnp.int32, sharding=sharding)
        compiled = CompiledStep(step, plan, options)
        return compiled.compile(compiled.lower(Batch(target_BL=target_BL))).as_text()


if __name__ == "__main__":
    print(program(*map(json.loads, sys.argv[1:])))
