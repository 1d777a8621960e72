"""Plans the engine's programs for eight TPUs that are not there, and prints what they are made of.

It needs a process of its own, because libtpu does, and the environment of `tpu_program`.
"""

import json

import jax
import jax.numpy as jnp

from palmscale import PaLM
from palmscale.infer import programs
from palmscale.infer.cache import empty_cache
from palmscale.infer.layouts import stored_rules
from palmscale.infer.partition import generation_rules, phase, placed
from palmscale.infer.slot_rows import empty_rows
from palmscale.infer.weights import abstract_form
from palmscale.model import interface
from palmscale.partition.layout import DeviceLayout
from palmscale.partition.mesh import MeshSpec, make_mesh
from palmscale.partition.rules import layout_rules
from palmscale.plan.generation import Generator, cache_shapes, plan_phase
from palmscale.plan.hardware import libtpu
from palmscale.plan.hardware.topology import parse
from palmscale.plan.program import hlo
from palmscale.train.state import abstract_params

MODEL = PaLM(num_tokens=4096, dim=512, depth=1, heads=8, dim_head=128, dtype="bfloat16")
SEQUENCES, POSITIONS, PROMPT = 16, 1024, 256
PHASES = {"decode": (SEQUENCES, 1), "prefill": (1, PROMPT), "large prefill": (SEQUENCES, PROMPT)}


def generator(devices):
    """The model on data 2 x model 4, its weights in two dims."""
    boxed = abstract_params(MODEL)
    mesh = make_mesh(MeshSpec(data=2, model=4), devices)
    rules = generation_rules(stored_rules(layout_rules("2d"), "weights_2d"), boxed, mesh.shape)
    layout = DeviceLayout(mesh=mesh, rules=rules)
    model, variables = abstract_form(MODEL, placed(boxed, layout), apart=True)
    num_params = sum(leaf.size for leaf in jax.tree.leaves(variables))
    return Generator(model=model, variables=variables, layout=layout, num_params=num_params)


def planned(one, where, sequences, new_tokens):
    plan = plan_phase(one, where, sequences=sequences, new_tokens=new_tokens, positions=POSITIONS)
    memory = plan.verdict.memory
    return dict(
        table=plan.choice.table,
        weight_bytes=plan.weight_bytes,
        cache_bytes=plan.cache_bytes,
        argument_bytes=memory.argument_bytes,
        aliased_bytes=memory.aliased_bytes,
        temporary_bytes=memory.temporary_bytes,
        collectives=[(c.kind, c.array, c.bytes) for c in plan.verdict.collectives],
    )


def moves(one):
    """The collectives of giving a prompt its slot and of taking it from there."""
    layouts = [phase(MODEL, one.layout, sequences=n, new_tokens=1)[0] for n in (SEQUENCES, 1)]
    spec, number = interface.cache_spec(MODEL), jax.ShapeDtypeStruct((), jnp.int32)
    caches = [
        cache_shapes(
            layout, lambda n=n: empty_cache(spec, batch=n, positions=POSITIONS, apart=True)
        )
        for layout, n in zip(layouts, (SEQUENCES, 1), strict=True)
    ]
    token_B = jax.ShapeDtypeStruct((SEQUENCES,), jnp.int32)
    slots = programs.Slots(cache=caches[0], token_B=token_B, rows=empty_rows(SEQUENCES))
    with layouts[0].entered():
        lowered = {
            "insert": programs.insert.lower(slots, caches[1], number, number, number),
            "take": programs.take.lower(slots.cache, number),
        }
    kinds = {}
    for name, program in lowered.items():
        found = hlo.parse(program.compile().as_text())
        opcodes = {i.opcode for body in found.computations.values() for i in body}
        kinds[name] = sorted(o for o in opcodes if o.startswith(("all-", "collective", "reduce-s")))
    return kinds


if __name__ == "__main__":
    where = parse("v5e:2x4")
    with libtpu.compiler():
        one = generator(libtpu.devices_of(where))
        facts = {name: planned(one, where, *shape) for name, shape in PHASES.items()}
        print("facts:" + json.dumps(facts | {"moves": moves(one)}))
