"""Google's fused layout: sizes follow from the shapes, and what is not it is refused.

tests/parity/test_imported_originals.py compares logits.
"""

import formula_weights
import numpy as np
import original_states
import pytest

from palmscale.errors import UserError
from palmscale.interop import t5x
from palmscale.interop.tensors import of_array

CASE = "plain"


def state(**options):
    return {name: of_array(a) for name, a in original_states.t5x(CASE, **options).items()}


def refusal(tensors):
    with pytest.raises(UserError) as refused:
        t5x.imported(tensors)
    message = str(refused.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("scan_axis", [0, 1])
@pytest.mark.parametrize("prefix", ["", "optimizer/"])
def test_parameters_are_those_of_the_formula(scan_axis, prefix):
    tensors = {f"{prefix}{name}": each for name, each in state(scan_axis=scan_axis).items()}
    tensors[f"{prefix}state/param_states/decoder/v"] = of_array(np.zeros(3))
    model, params = t5x.imported(tensors)
    sizes = formula_weights.CASES[CASE]
    assert {field: getattr(model, field) for field in sizes} == sizes
    assert (model.norm, model.norm_eps, model.logit_scale) == ("rms", 1e-6, None)
    expected = formula_weights.stack(CASE, scale_offset=1.0)
    for path, tensor in params.items():
        node = expected["layers"] if path.startswith("layers/") else expected
        np.testing.assert_array_equal(tensor.read(), node[path.removeprefix("layers/")])
        for part, values in tensor.blocks(200):
            np.testing.assert_array_equal(values, tensor.read()[part])
    assert len(params) == 9 and model.final_norm == "unscaled"


def test_a_final_scale_is_taken_over():
    scale = np.arange(48, dtype=np.float32)
    model, params = t5x.imported({**state(), "target/decoder/decoder_norm/scale": of_array(scale)})
    assert model.final_norm == "scaled"
    np.testing.assert_array_equal(params["final_norm"].read(), scale)


def test_int8_is_refused_by_name():
    tensors = state()
    name = "target/decoder/decoder/kv_fused/kernel"
    tensors[name.replace("kernel", "qkernel")] = tensors.pop(name)
    assert "quantized to int8 (it has decoder/kv_fused/qkernel)" in refusal(tensors)


def test_missing_and_unknown_names_are_listed_with_shapes():
    tensors = state()
    tensors["target/decoder/decoder/wi/kernel"] = of_array(np.zeros((2, 3), np.float32))
    del tensors["target/decoder/decoder/o_wo_fused/kernel"]
    message = refusal(tensors)
    assert "missing: decoder/o_wo_fused/kernel [2, 6, 48, 48]" in message
    assert "unknown: decoder/wi/kernel [2, 3]" in message


def test_another_layout_is_recognized():
    tensors = {n: of_array(a) for n, a in original_states.palm_jax(CASE).items()}
    assert "token_embedder/embedding is missing. They look like the layout palm_jax" in refusal(
        tensors
    )


def test_an_mlp_that_is_no_multiple_of_the_width_is_refused():
    tensors = state()
    tensors["target/decoder/decoder/q_wi_fused/kernel"] = of_array(np.zeros((2, 48, 6, 50)))
    assert "leaves an MLP of 102; expected a multiple of 48" in refusal(tensors)
