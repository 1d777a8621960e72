"""The form for generation has the same weights, cast once and taken apart by layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from palmscale import PaLM
from palmscale.infer.weights import decoding_form, form_on
from palmscale.partition.shardings import unbox
from palmscale.train.state import abstract_params

MODEL = PaLM(num_tokens=29, dim=16, depth=3, heads=2, dim_head=8, dtype="bfloat16")


@pytest.fixture
def params():
    random = np.random.default_rng(0)
    draw = lambda leaf: jnp.asarray(random.normal(size=leaf.shape), "float32")  # noqa: E731
    return jax.tree.map(draw, unbox(abstract_params(MODEL)))


def test_matmul_weights_are_cast_and_norms_are_not(params):
    model, variables = decoding_form(MODEL, params)
    form = variables["decoding"]
    assert model is MODEL
    assert form["embedding"].dtype == form["layers"]["gate"].dtype == jnp.bfloat16
    assert form["layers"]["norm"].dtype == form["final_norm"].dtype == jnp.float32
    np.testing.assert_array_equal(form["layers"]["up"], params["layers"]["up"].astype("bfloat16"))


def test_layers_apart_are_the_stacked_ones(params):
    model, variables = decoding_form(MODEL, params, dtype="float32", apart=True)
    layers = variables["decoding"]["layers"]
    assert model.dtype == "float32" and len(layers) == 3
    for n, layer in enumerate(layers):
        for name, weight in layer.items():
            np.testing.assert_array_equal(weight, params["layers"][name][n])


def test_donated_parameters_are_freed_and_the_others_stay(params):
    kept = jax.device_get(params)
    decoding_form(MODEL, params, apart=True)
    jax.tree.map(np.testing.assert_array_equal, params, kept)
    _, variables = decoding_form(MODEL, params, apart=True, donate=True)
    last_norm = params.pop("final_norm")  # is part of both
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(params))
    assert not last_norm.is_deleted()
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(variables))


def test_a_module_of_ones_own_keeps_its_parameters():
    model, params = nn.Dense(3), {"kernel": jnp.ones((2, 3))}
    assert decoding_form(model, params, dtype="float32", apart=True) == (model, {"params": params})


def test_a_cpu_computes_in_float32_and_layers_lie_apart_everywhere():
    assert form_on("cpu") == {"dtype": "float32", "apart": True}
    assert form_on("gpu") == {"dtype": None, "apart": True}
    assert form_on("tpu") == {"dtype": None, "apart": True}
