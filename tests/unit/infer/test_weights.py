"""The form of weights in generation: cast once, apart by layer, one parameter after another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from palmscale import PaLM
from palmscale.infer import quantized, weights
from palmscale.infer.cache import empty_cache
from palmscale.infer.partition import placed
from palmscale.infer.weights import abstract_form, decoding_form, form_on
from palmscale.model.interface import variables_of
from palmscale.model.lora import Lora, adapted_shapes, adapters_of, joined
from palmscale.partition.layout import DeviceLayout
from palmscale.partition.mesh import MeshSpec, make_mesh
from palmscale.partition.rules import TABLES
from palmscale.partition.shardings import unbox
from palmscale.train.state import abstract_params
from palmscale.trees import named_leaves

MODEL = PaLM(num_tokens=48, dim=32, depth=2, heads=2, dim_head=16, dtype="bfloat16")


@pytest.fixture
def params():
    return unbox(MODEL.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"])


def test_matmul_weights_are_cast_and_norms_stay(params):
    model, variables = decoding_form(MODEL, params)
    held = variables["decoding"]
    assert model == MODEL and held["final_norm"] is params["final_norm"]
    assert held["layers"]["norm"] is params["layers"]["norm"]
    held["layers"].pop("norm")
    others = [held["embedding"], *held["layers"].values()]
    assert {leaf.dtype for leaf in others} == {jnp.dtype("bfloat16")}


def test_apart_each_layer_has_its_own_arrays_with_the_same_values(params):
    layers = decoding_form(MODEL, params, apart=True, dtype="float32")[1]["decoding"]["layers"]
    assert len(layers) == MODEL.depth
    for n, layer in enumerate(layers):
        assert layer.keys() == params["layers"].keys()
        for name, leaf in layer.items():
            np.testing.assert_array_equal(leaf, params["layers"][name][n])


def test_a_cpu_computes_in_float32_and_layers_lie_apart_everywhere(params):
    model, variables = decoding_form(MODEL, params, **form_on("cpu"))
    assert model == MODEL.clone(dtype="float32")
    assert isinstance(variables["decoding"]["layers"], tuple)
    assert variables["decoding"]["embedding"] is params["embedding"]
    assert form_on("gpu") == {"dtype": None, "apart": True}
    assert form_on("tpu") == {"dtype": None, "apart": True}


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_adapters_are_cast_and_lie_apart_beside_their_kernels(quantize, params):
    boxed = adapted_shapes(Lora(rank=2, alpha=8.0), MODEL, abstract_params(MODEL))
    adapters = {
        path: jnp.full(leaf.shape, 0.1)
        for path, leaf in named_leaves(adapters_of(unbox(boxed))).items()
    }
    whole = joined(unbox(boxed), named_leaves(params), adapters)
    model, variables = decoding_form(MODEL, whole, dtype="float32", apart=True, quantize=quantize)
    layer = variables["decoding"]["layers"][0]
    assert quantized.is_quantized(layer["query"].kernel) == (quantize is not None)
    assert layer["query"].down.shape == (32, 2) and layer["query"].up.dtype == jnp.float32
    tokens_BL = np.arange(6)[None]
    cache = empty_cache(model.cache_spec(), batch=1, positions=8, apart=True)
    x_BLD, _ = model.apply(variables, tokens_BL, cache, method="extend")
    expected = model.apply(variables_of(whole), tokens_BL, method="hidden")
    bare = model.apply({"params": params}, tokens_BL, method="hidden")
    allowed = 1e-4 if quantize is None else 0.1
    assert np.abs(x_BLD - expected).max() < allowed < np.abs(x_BLD - bare).max()


@pytest.mark.parametrize("quantize", [None, "int8"])
@pytest.mark.parametrize("apart", [False, True], ids=["stacked", "apart"])
def test_what_is_donated_is_held_twice_for_one_parameter_at_a_time(
    apart, quantize, params, monkeypatch
):
    def live_bytes():
        return sum(array.nbytes for array in jax.live_arrays()) - before

    free, peaks = weights._free, []

    def measured(old, new):
        peaks.append(live_bytes())
        free(old, new)

    monkeypatch.setattr(weights, "_free", measured)
    leaves = jax.tree.leaves(params)
    given = sum(leaf.nbytes for leaf in leaves)
    before = sum(array.nbytes for array in jax.live_arrays()) - given
    _, variables = decoding_form(MODEL, params, apart=apart, quantize=quantize, donate=True)
    del leaves[:]
    most = max(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert len(peaks) == 10 and given < max(peaks) <= given + most
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    assert live_bytes() == held < (0.55 if quantize is None else 0.35) * given
    kept = {"norm", "final_norm"}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        assert leaf.is_deleted() == (path[-1].key not in kept or (apart and len(path) == 2)), path


def test_a_module_of_ones_own_keeps_its_parameters():
    model, params = nn.Dense(3), {"kernel": jnp.ones((2, 3))}
    assert decoding_form(model, params, dtype="float32", apart=True) == (model, {"params": params})


@pytest.mark.parametrize("quantize", [None, "int8", "int4"])
@pytest.mark.parametrize("apart", [False, True], ids=["stacked", "apart"])
def test_the_form_of_shapes_is_that_of_arrays(apart, quantize, params):
    layout = DeviceLayout(mesh=make_mesh(MeshSpec(), jax.devices()[:1]), rules=TABLES["2d"])
    shapes, form = placed(abstract_params(MODEL), layout), dict(apart=apart, quantize=quantize)
    model, known = abstract_form(MODEL, shapes, **form)
    assert model == MODEL
    made = decoding_form(MODEL, params, **form)[1]
    known, made = (
        jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree) for tree in (known, made)
    )
    assert known == made


def test_what_is_not_donated_stays(params):
    decoding_form(MODEL, params, apart=True, quantize="int8")
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(params))
    assert not list(quantized.quantized_leaves(params))
