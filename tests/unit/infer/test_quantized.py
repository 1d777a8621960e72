"""Quantized weights: every one of them is, the logits stay near, and they lie where they lay."""

import sys

import eight_devices
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import qwix
from flax import linen as nn

from palmscale import PaLM
from palmscale.errors import UserError
from palmscale.infer import quantized
from palmscale.infer.partition import generation_layout, placed
from palmscale.infer.weights import abstract_form, decoding_form
from palmscale.model.attention import Cache
from palmscale.partition.rules import TABLES
from palmscale.partition.shardings import unbox
from palmscale.train.state import abstract_params

MODEL = PaLM(num_tokens=29, dim=64, depth=3, heads=4, dim_head=16, padded_tokens=32)
TOKENS_BL = np.random.default_rng(1).integers(0, 29, (2, 12)).astype(np.int32)
# Of a product, and of logits three layers later; in units of the exact values' spread.
BOUNDS = {"int8": (0.007, 0.015), "fp8": (0.03, 0.06), "int4": (0.1, 0.25)}
KINDS = sorted(BOUNDS)


@pytest.fixture(scope="module")
def params():
    key = jax.random.key(0)
    return unbox(MODEL.init(key, jnp.zeros((1, 1), jnp.int32))["params"])


@pytest.fixture(scope="module")
def exact(params):
    return logits({"params": params})


@pytest.fixture(scope="module", params=KINDS)
def stacked(request, params):
    """(kind, variables)"""
    return request.param, decoding_form(MODEL, params, quantize=request.param)[1]


def logits(variables):
    return np.asarray(jax.jit(MODEL.apply)(variables, TOKENS_BL))[..., : MODEL.num_tokens]


def extended(variables, apart):
    """The logits of a prompt that is written to a cache."""
    layers = [jnp.zeros((2, 16, MODEL.dim_head))] * MODEL.depth
    kv = tuple(layers) if apart else jnp.stack(layers)
    cache = Cache(kv, kv, jnp.zeros(2, jnp.int32))

    @jax.jit
    def run(variables, cache):
        x_BLD, _ = MODEL.apply(variables, TOKENS_BL, cache, method="extend")
        return MODEL.apply(variables, x_BLD, method="unembed")

    return np.asarray(run(variables, cache))[..., : MODEL.num_tokens]


def spread_error(found, exact):
    return float(np.sqrt(np.mean((found - exact) ** 2)) / exact.std())


def test_every_weight_of_the_layers_is_quantized_and_the_rest_stays(stacked, params):
    kind, variables = stacked
    leaves = list(quantized.quantized_leaves(variables))
    assert len(leaves) == 7  # of all layers
    assert {leaf.qvalue.dtype for leaf in leaves} == {jnp.dtype(quantized.DTYPES[kind])}
    assert {leaf.scale.dtype for leaf in leaves} == {jnp.dtype("float32")}
    held = variables["decoding"]
    assert held["final_norm"] is params["final_norm"]
    assert held["layers"]["norm"] is params["layers"]["norm"]
    assert held["layers"]["query"].scale.shape == (3, 64 // (32 if kind == "int4" else 64), 4, 16)
    assert held["layers"]["attention_out"].scale.shape == (3, 4 if kind == "int4" else 1, 1, 64)
    assert held["embedding"] is params["embedding"]


def test_products_and_logits_stay_within_the_bounds_of_their_type(stacked, params, exact):
    kind, variables = stacked
    of_product, of_logits = BOUNDS[kind]
    for name in ("query", "attention_out", "down"):
        w, q = params["layers"][name], variables["decoding"]["layers"][name]
        assert spread_error(np.asarray(qwix.dequantize(q)), np.asarray(w)) <= of_product
    error = spread_error(logits(variables), exact)
    assert of_logits / 4 < error <= of_logits


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_layers_apart_and_stacked_give_the_same_logits_with_and_without_a_cache(kind, params):
    _, variables = decoding_form(MODEL, params, quantize=kind)
    whole = logits(variables)
    np.testing.assert_allclose(extended(variables, apart=False), whole, atol=2e-5)
    _, apart = decoding_form(MODEL, params, quantize=kind, apart=True)
    assert len(list(quantized.quantized_leaves(apart))) == 3 * 7
    np.testing.assert_allclose(extended(apart, apart=True), whole, atol=2e-5)
    # What is stored quantized is taken apart without being quantized again.
    stored = variables["decoding"]
    _, again = decoding_form(MODEL, stored, apart=True)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), again, apart))


def test_shapes_are_known_before_the_weights(params):
    boxed = abstract_params(MODEL)
    one_device = generation_layout(
        MODEL, boxed, trained_mesh={}, trained_rules=TABLES["2d"], devices=jax.devices()[:1]
    )
    shapes = placed(boxed, one_device)
    for kind in KINDS:
        known = quantized.abstract_tree(MODEL, shapes, kind)
        made = decoding_form(MODEL, params, quantize=kind)[1]["decoding"]
        described = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (known, made))
        assert described[0] == described[1]


def on_a_mesh():
    """For int8 and int4: how values and scales are split, and the largest difference of logits."""
    params = unbox(MODEL.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"])
    layout = generation_layout(
        MODEL,
        abstract_params(MODEL),
        trained_mesh={"data": 2, "model": 4},
        trained_rules=TABLES["2d"],
    )
    shardings = jax.tree.map(lambda leaf: leaf.sharding, placed(abstract_params(MODEL), layout))
    facts = {}
    for kind in ("int8", "int4"):
        alone = logits(decoding_form(MODEL, params, quantize=kind)[1])
        split, worst = {}, 0.0
        with layout.entered():
            on_mesh = jax.device_put(params, shardings)
            for apart in (False, True):
                _, variables = decoding_form(MODEL, on_mesh, quantize=kind, apart=apart)
                _, known = abstract_form(
                    MODEL, placed(abstract_params(MODEL), layout), quantize=kind, apart=apart
                )
                alike = jax.tree.map(
                    lambda a, b: a.sharding.is_equivalent_to(b.sharding, a.ndim), variables, known
                )
                assert jax.tree.all(alike), (kind, apart)
                layers = variables["decoding"]["layers"]
                layer = layers[0] if apart else layers
                for name in ("query", "attention_out", "down"):
                    parts = jax.tree.leaves(layer[name])
                    split[f"{name} {'apart' if apart else 'stacked'}"] = [
                        list(part.sharding.spec) for part in parts
                    ]
                difference = np.abs(extended(variables, apart) - alone).max()
                worst = max(worst, float(difference))
        facts[kind] = split, worst
    return facts


def test_on_a_mesh_scales_lie_beside_their_channels_and_logits_agree():
    facts = eight_devices.facts_on_eight_devices(on_a_mesh)
    assert max(worst for _, worst in facts.values()) <= 1e-4
    int8, int4 = (facts[kind][0] for kind in ("int8", "int4"))
    for dims in (int8, int4):  # the values lie as the weight did
        assert dims["query stacked"][0] == [None, "data", "model", None]
        assert dims["query apart"][0] == ["data", "model"]
        assert dims["attention_out apart"][0] == ["model", None, "data"]
    assert int8["query stacked"][1] == [None, None, "model", None]
    assert int8["query apart"][1] == [None, "model"]
    assert int8["attention_out stacked"][1] == [None, None, None, "data"]
    assert int8["down apart"][1] == [None, "data"]
    # The tiles of a weight that is split over the summed dim are split with it.
    assert int4["down stacked"][1] == [None, "model", "data"]
    assert int4["attention_out apart"][1] == ["model", None, "data"]


class Plain(nn.Module):
    def extend(self, tokens_BL, cache): ...


@pytest.mark.parametrize(
    ("model", "kind", "message"),
    [
        (MODEL, "int3", "to 'int3'; use one of int8, int4, fp8"),
        (Plain(), "int8", "Plain cannot be quantized: it has no `decoding_weights"),
    ],
    ids=["type", "module"],
)
def test_what_cannot_be_quantized_is_refused(model, kind, message):
    with pytest.raises(UserError, match=message):
        decoding_form(model, {}, quantize=kind)


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "qwix", None)
    with pytest.raises(UserError, match=r"pip install 'palmscale\[quantize\]'"):
        decoding_form(MODEL, {}, quantize="int8")
