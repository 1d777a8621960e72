import engine_exports
import jax
import numpy as np
import pytest

from palmscale.interop import layerwise
from palmscale.interop.tensors import Tensor

TOKENS = np.array([0, 5, 258, 0, 77])


@pytest.mark.parametrize("case", ["rms_square", "layer_wide"])
def test_layer_by_layer_the_logits_are_those_of_the_model(case):
    outgoing = engine_exports.outgoing(case)
    variables = engine_exports.variables(case)
    whole = jax.jit(outgoing.model.apply)(variables, TOKENS[None])[0]
    found = layerwise.logits(outgoing.model, outgoing.params, TOKENS)
    assert found.shape == (len(TOKENS), outgoing.model.num_tokens)
    np.testing.assert_allclose(found, whole[:, : found.shape[1]], rtol=0, atol=1e-5)


def test_a_bfloat16_model_is_computed_in_float32():
    outgoing = engine_exports.outgoing("rms_wide")
    low = outgoing.model.clone(dtype="bfloat16")
    np.testing.assert_array_equal(
        layerwise.logits(low, outgoing.params, TOKENS),
        layerwise.logits(outgoing.model, outgoing.params, TOKENS),
    )


def test_one_layer_is_read_at_a_time():
    outgoing = engine_exports.outgoing("rms_wide")

    def watched(tensor):
        def read(part):
            layers.append(part[0].stop - part[0].start)
            return tensor.read_part(part)

        return Tensor(tensor.shape, tensor.dtype, read)

    layers = []
    params = {
        name: watched(tensor) if name.startswith("layers/") else tensor
        for name, tensor in outgoing.params.items()
    }
    layerwise.logits(outgoing.model, params, TOKENS)
    assert set(layers) == {1}


def test_the_bytes_of_a_layer_are_counted():
    outgoing = engine_exports.outgoing("rms_wide")
    stacked = [t for name, t in outgoing.params.items() if name.startswith("layers/")]
    assert layerwise.layer_bytes(outgoing.params) == sum(t.bytes for t in stacked) // 2
