"""Generation on several devices: the layout, and the same tokens as on one."""

import jax
import numpy as np
import pytest
from eight_devices import facts_on_eight_devices
from tiny_training import BOS, MODEL

from palmscale.infer.engine import Engine
from palmscale.infer.partition import generation_layout, parameter_bytes, placed
from palmscale.infer.request import Request
from palmscale.infer.sampling import Sampling
from palmscale.partition.rules import layout_rules
from palmscale.partition.shardings import unbox
from palmscale.train.state import abstract_params


def generated(params, layout=None):
    engine = Engine(
        model=MODEL, variables={"params": params}, layout=layout, slots=2, context_length=32
    )
    request = Request(
        prompt=np.array([BOS, 3, 5], np.int32), max_tokens=12, sampling=Sampling(temperature=0.0)
    )
    return [token.id for _, output in engine.run([request]) for token in output.tokens]


def spread_facts():
    """Run with eight devices."""
    variables = MODEL.init({"params": jax.random.key(0)}, np.zeros((1, 1), np.int32))
    params = jax.device_get(unbox(variables["params"]))
    boxed = abstract_params(MODEL)
    facts = {"one": generated(params)}
    for data, model in ((4, 2), (2, 4), (16, 1)):
        layout = generation_layout({"data": data, "model": model}, layout_rules("2d"))
        shapes = placed(boxed, layout)
        on_mesh = jax.tree.map(lambda a, s: jax.device_put(a, s.sharding), params, shapes)
        facts[f"{data}x{model}"] = generated(on_mesh, layout)
        kernel = on_mesh["layers"]["query"] if "query" in on_mesh["layers"] else None
        leaves = jax.tree.leaves(on_mesh) if kernel is None else [kernel]
        largest = max(leaves, key=lambda leaf: leaf.size)
        facts[f"share {data}x{model}"] = largest.addressable_shards[0].data.size / largest.size
    return facts


@pytest.fixture(scope="module")
def facts():
    return facts_on_eight_devices(spread_facts)


@pytest.mark.parametrize("mesh", ["4x2", "2x4", "16x1"])
def test_the_tokens_are_those_of_one_device(facts, mesh):
    assert facts[mesh] == facts["one"]


def test_a_weight_is_split_over_the_devices(facts):
    assert facts["share 4x2"] == facts["share 2x4"] == 1 / 8


def test_the_bytes_of_parameters_are_counted_without_having_them():
    shapes = {"a": jax.ShapeDtypeStruct((3, 4), "bfloat16"), "b": jax.ShapeDtypeStruct((), "int32")}
    assert parameter_bytes(shapes) == 28
