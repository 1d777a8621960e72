"""Weights in the layout of each original give the original's logits after import.

The logits were computed by the originals themselves (make_goldens.py); Google's T5X layout is
computed by `fused_logits`, which reads the fused kernels as Google's code does.
"""

import pathlib

import formula_weights
import jax
import numpy as np
import original_states
import pytest

from palmscale.interop import palm_flax, palm_jax, palm_pytorch, palm_rlhf, t5x
from palmscale.interop.tensors import of_array

HERE = pathlib.Path(__file__).parent
CASES = list(formula_weights.CASES)
IMPORTS = {  # golden: the state, and how it is imported
    "palm_flax": (original_states.palm_flax, palm_flax.imported),
    "palm_pytorch": (original_states.palm_pytorch, palm_pytorch.imported),
    "palm_jax": (original_states.palm_jax, palm_jax.imported),
    "palm_rlhf_0.2.3": (
        original_states.palm_rlhf,
        lambda tensors: palm_rlhf.imported(tensors, norm_scale_offset=0.0, final_norm="scaled"),
    ),
    "palm_rlhf_0.2.4": (
        lambda case: original_states.palm_rlhf(case, offset=1.0),
        lambda tensors: palm_rlhf.imported(tensors, norm_scale_offset=1.0, final_norm="scaled"),
    ),
}


def logits(model, params, case):
    tree = {"layers": {}}
    for path, tensor in params.items():
        node = tree["layers"] if path.startswith("layers/") else tree
        node[path.removeprefix("layers/")] = tensor.read()
    return jax.jit(model.apply)({"params": tree}, formula_weights.tokens(case))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("golden", IMPORTS)
def test_imported_weights_give_the_logits_of_the_original(golden, case):
    state, imported = IMPORTS[golden]
    model, params = imported({name: of_array(a) for name, a in state(case).items()})
    sizes = formula_weights.CASES[case]
    assert {field: getattr(model, field) for field in sizes} == sizes
    with np.load(HERE / f"{golden}.npz") as stored:
        expected = stored[case]
    assert expected.std() > 0.4
    np.testing.assert_allclose(logits(model, params, case), expected, rtol=0, atol=1e-5)


def test_without_xpos_the_logits_are_others():
    tensors = {n: of_array(a) for n, a in original_states.palm_rlhf("plain").items()}
    model, params = palm_rlhf.imported(tensors, norm_scale_offset=0.0, final_norm="scaled")
    with np.load(HERE / "palm_rlhf_0.2.3.npz") as stored:
        difference = logits(model.clone(rotary="rope"), params, "plain") - stored["plain"]
    assert np.abs(difference).max() > 1e-3


def fused_logits(state, case):
    """Google's model from its fused kernels, in float64: one sequence and one layer at a time."""
    K = formula_weights.CASES[case]["dim_head"]
    F = state["target/decoder/decoder/o_wo_fused/kernel"].shape[2] - K  # of one head
    table, *stacked = (
        np.float64(state[f"target/decoder/{name}"])
        for name in ("token_embedder/embedding", "decoder/layer_norm/scale",
                     "decoder/q_wi_fused/kernel", "decoder/kv_fused/kernel",
                     "decoder/o_wo_fused/kernel")
    )  # fmt: skip

    def norm(x_LD):
        return x_LD / np.sqrt(np.mean(x_LD**2, -1, keepdims=True) + 1e-6)

    def rope(x_LHK):
        angle = np.arange(len(x_LHK))[:, None, None] / 10_000 ** (np.arange(K // 2) / (K // 2))
        a, b = np.split(x_LHK, 2, -1)
        return np.concatenate([a * np.cos(angle) - b * np.sin(angle),
                               b * np.cos(angle) + a * np.sin(angle)], -1)  # fmt: skip

    results = []
    for token_L in formula_weights.tokens(case):
        x_LD = table[token_L]
        for scale_D, q_wi, kv, o_wo in zip(*stacked, strict=True):
            y_LD = norm(x_LD) * (1 + scale_D)
            fused_LHX = np.einsum("ld,dhx->lhx", y_LD, q_wi)
            q, wi_0, wi_1 = np.split(fused_LHX, [K, K + F], -1)
            k, v = np.split(np.einsum("ld,dhx->lhx", y_LD, kv), 2, -1)
            score_HLS = np.einsum("lhk,sk->hls", rope(q), rope(k)[:, 0]) / np.sqrt(K)
            score_HLS = np.where(np.tri(len(token_L), dtype=bool), score_HLS, -np.inf)
            weight_HLS = np.exp(score_HLS - score_HLS.max(-1, keepdims=True))
            weight_HLS /= weight_HLS.sum(-1, keepdims=True)
            attention_LHK = np.einsum("hls,sk->lhk", weight_HLS, v[:, 0])
            mlp_LHF = wi_0 / (1 + np.exp(-wi_0)) * wi_1
            both_LHX = np.concatenate([attention_LHK, mlp_LHF], -1)
            x_LD = x_LD + np.einsum("lhx,hxd->ld", both_LHX, o_wo)
        results.append(norm(x_LD) @ table.T / np.sqrt(table.shape[1]))
    return np.stack(results)


@pytest.mark.parametrize("scan_axis", [0, 1])
def test_googles_fused_layout_gives_the_logits_of_google(scan_axis):
    case = "plain"  # its heads divide the MLP, as Google's must
    state = original_states.t5x(case, scan_axis=scan_axis)
    model, params = t5x.imported({name: of_array(a) for name, a in state.items()})
    assert model.final_norm == "unscaled" and model.norm_scale_offset == 1
    expected = fused_logits(original_states.t5x(case), case)
    assert expected.std() > 0.05
    np.testing.assert_allclose(logits(model, params, case), expected, rtol=0, atol=1e-5)
