"""Layouts with one fused input kernel come back bit for bit, and others are refused in one line."""

import formula_weights
import ml_dtypes
import numpy as np
import original_states
import pytest

from palmscale import PaLM
from palmscale.errors import UserError
from palmscale.interop import fused_layout, palm_flax, palm_jax, palm_pytorch, palm_rlhf
from palmscale.interop.tensors import cast, of_array

CASE = "odd"
STATES = {
    "palm_flax": original_states.palm_flax,
    "palm_pytorch": original_states.palm_pytorch,
    "palm_rlhf": original_states.palm_rlhf,
    "palm_jax": original_states.palm_jax,
}
MODULES = {module.__name__.rpartition(".")[2]: module
           for module in (palm_flax, palm_pytorch, palm_rlhf, palm_jax)}  # fmt: skip


def state(layout, **options):
    return {name: of_array(array) for name, array in STATES[layout](CASE, **options).items()}


def imported(layout, tensors, norm_scale_offset=0.0):
    further = {}
    if layout == "palm_rlhf":
        further = dict(norm_scale_offset=norm_scale_offset, final_norm="scaled")
    return MODULES[layout].imported(tensors, **further)


def refusal(layout, tensors):
    with pytest.raises(UserError) as refused:
        imported(layout, tensors)
    message = str(refused.value)
    assert "\n" not in message
    return message


def assert_equal(found, expected):
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        np.testing.assert_array_equal(found[name].read(), tensor.read(), err_msg=name)


@pytest.mark.parametrize("layout", STATES)
def test_what_is_imported_is_exported_with_the_same_names_dtypes_and_bits(layout):
    model, params = imported(layout, state(layout))
    assert_equal(MODULES[layout].exported(model, params), state(layout))


def test_zero_centered_scales_come_back_as_they_were():
    tensors = state("palm_rlhf", offset=1.0)
    model, params = imported("palm_rlhf", tensors, norm_scale_offset=1.0)
    assert_equal(palm_rlhf.exported(model, params), tensors)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_weights_of_16_bits_come_back_as_they_were(dtype):
    tensors = {name: cast(tensor, dtype) for name, tensor in state("palm_pytorch").items()}
    model, params = imported("palm_pytorch", tensors)
    assert all(tensor.dtype == np.float32 for tensor in params.values())
    again = palm_pytorch.exported(model, params)
    assert_equal({name: cast(tensor, dtype) for name, tensor in again.items()}, tensors)


def test_imported_parameters_are_those_of_the_formula():
    expected = formula_weights.stack(CASE, scale_offset=0.0)
    for layout in STATES:
        _, params = imported(layout, state(layout))
        for path, tensor in params.items():
            node = expected["layers"] if path.startswith("layers/") else expected
            np.testing.assert_array_equal(tensor.read(), node[path.removeprefix("layers/")])
        assert len(params) == 10


def test_parts_equal_the_whole():
    model, params = imported("palm_jax", state("palm_jax"))
    for tensor in [*params.values(), *palm_jax.exported(model, params).values()]:
        whole = tensor.read()
        for part, values in tensor.blocks(200):
            np.testing.assert_array_equal(values, whole[part])


def test_missing_and_unknown_names_are_listed_with_shapes():
    tensors = state("palm_pytorch")
    del tensors["2.fn.norm.gamma"]
    tensors["2.fn.to_q.bias"] = of_array(np.zeros(7, np.float32))
    message = refusal("palm_pytorch", tensors)
    assert "missing: 2.fn.norm.gamma [32]" in message
    assert "unknown: 2.fn.to_q.bias [7]" in message


def test_a_second_layer_of_another_shape_is_named():
    tensors = state("palm_flax")
    name = "params/ParallelTransformer_0/ParallelTransformerBlock_1/Dense_2/kernel"
    tensors[name] = of_array(np.zeros((95, 32), np.float32))
    assert f"{name} is [95, 32] and must be [96, 32]" in refusal("palm_flax", tensors)


@pytest.mark.parametrize("layout", STATES)
def test_another_layout_is_recognized(layout):
    other = "palm_flax" if layout != "palm_flax" else "palm_rlhf"
    message = refusal(layout, state(other))
    assert f"not the tensors of {layout}" in message
    assert f"look like the layout {other}; import them from {other}" in message


def test_kernels_that_do_not_fit_one_another_are_refused():
    tensors = state("palm_flax")
    name = "params/ParallelTransformer_0/ParallelTransformerBlock_0/Dense_0/kernel"
    tensors[name] = of_array(np.zeros((32, 200), np.float32))
    assert "do not fit one another: with 200 fused columns" in refusal("palm_flax", tensors)


@pytest.mark.parametrize("name", ["norm.beta", "layers.1.fn.rotary_emb.scale"])
def test_a_constant_that_palmscale_does_not_compute_is_refused(name):
    tensors = state("palm_rlhf")
    tensors[name] = of_array(tensors[name].read() + np.float32(0.5))
    assert f"{name} differs from what palmscale computes" in refusal("palm_rlhf", tensors)


def test_an_output_table_of_its_own_is_refused():
    tensors = state("palm_pytorch")
    tensors["5.weight"] = of_array(tensors["5.weight"].read() + np.float32(1))
    assert "5.weight differs from the embedding in rows 0 to 60" in refusal("palm_pytorch", tensors)


def test_a_file_may_lack_the_copy_of_the_table():
    tensors = state("palm_rlhf")
    del tensors["to_logits.weight"]
    model, params = imported("palm_rlhf", tensors)
    assert_equal(palm_rlhf.exported(model, params), state("palm_rlhf"))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (dict(norm="rms"), "cannot express PaLM.norm='rms': it has 'layer'"),
        (dict(norm_eps=1e-6), "cannot express PaLM.norm_eps=1e-06: it has 1e-05"),
        (dict(final_norm="none"), "cannot express PaLM.final_norm='none'"),
        (dict(rotary="xpos"), "cannot express PaLM.rotary='xpos': it has 'rope'"),
    ],
)
def test_what_a_layout_cannot_express_is_refused_by_its_field(fields, told):
    model, params = imported("palm_flax", state("palm_flax"))
    with pytest.raises(UserError, match=told):
        palm_flax.exported(model.clone(**fields), params)


def test_a_module_of_the_users_own_is_refused():
    class Mine(PaLM):
        pass

    model, params = imported("palm_flax", state("palm_flax"))
    with pytest.raises(UserError, match="palm_flax cannot express the module Mine"):
        palm_flax.exported(Mine(dim=32, num_tokens=61, depth=3), params)


def test_the_logits_factor_and_norm_offset_move_into_the_norms():
    model, params = imported("palm_flax", state("palm_flax"))
    scaled = model.clone(logit_scale=None, norm_scale_offset=1.0)
    found = palm_flax.exported(scaled, params)
    name = "params/LayerNorm_0/scale"
    expected = (state("palm_flax")[name].read() + 1) * np.float32(model.dim**-0.5)
    np.testing.assert_allclose(found[name].read(), expected, rtol=1e-6)
    unscaled = palm_flax.exported(scaled.clone(final_norm="unscaled"), params)
    np.testing.assert_allclose(unscaled[name].read(), model.dim**-0.5, rtol=1e-6)


def test_padding_rows_are_left_out():
    model, params = imported("palm_flax", state("palm_flax"))
    padded = {**params, "embedding": of_array(np.pad(params["embedding"].read(), ((0, 3), (0, 0))))}
    found = palm_flax.exported(model.clone(padded_tokens=64), padded)
    assert found["params/Embed_0/embedding"].shape == (61, 32)


def test_interleaved_order_puts_the_halves_side_by_side():
    assert fused_layout.interleaved(6).tolist() == [0, 3, 1, 4, 2, 5]
