"""The weights of a checkpoint: as they are stored, and in the form in which they are loaded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_run import MODEL

from palmscale.errors import UserError
from palmscale.infer.weights import decoding_form
from palmscale.partition.shardings import unbox
from palmscale.run.stored_weights import as_stored, stored_weights
from palmscale.train.state import abstract_params


@pytest.fixture(scope="module")
def shapes():
    return unbox(abstract_params(MODEL))


def test_whole_parameters_are_stored_as_they_are(shapes):
    weights = stored_weights(MODEL, {}, None)
    assert weights.on_disk(shapes) is shapes and weights.held(shapes) is shapes
    assert weights.convert is None and weights.loaded(shapes, shapes) is shapes


def test_parameters_that_are_to_be_quantized_are_stored_whole_and_converted_one_by_one(shapes):
    weights = stored_weights(MODEL, {}, "int8")
    assert weights.on_disk(shapes) is shapes
    gate = weights.convert("layers/gate", jnp.ones((2, 32, 128)))
    assert (gate.qvalue.dtype, gate.scale.shape) == (jnp.dtype("int8"), (2, 1, 128))
    assert weights.convert("layers/norm", norm := jnp.ones((2, 32))) is norm


@pytest.mark.parametrize("kind", ["int8", "int4", "fp8"])
def test_quantized_weights_are_two_arrays_each_and_become_what_they_were(kind, shapes):
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.5, leaf.dtype), shapes)
    held = decoding_form(MODEL, params, quantize=kind)[1]["decoding"]
    stored, weights = as_stored(held), stored_weights(MODEL, {"quantized": kind}, None)
    assert stored["layers"]["query"].keys() == {"qvalue", "scale"}
    described = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), stored)
    assert described == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), weights.on_disk(shapes))
    loaded = weights.loaded(shapes, stored)
    assert jax.tree.structure(loaded) == jax.tree.structure(held)
    jax.tree.map(np.testing.assert_array_equal, loaded, held)


@pytest.mark.parametrize("meta", [{}, {"quantized": "int9\x1b"}], ids=["wanted", "stored"])
def test_a_type_that_does_not_exist_is_refused(meta):
    with pytest.raises(UserError, match=r"cannot be quantized to 'int9\\x1b'; use one of int8"):
        stored_weights(MODEL, meta, "int9\x1b")
