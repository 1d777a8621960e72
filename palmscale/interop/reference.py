"""Cohere2MoE with dense layers in NumPy: what transformers and llama.cpp compute of an export.

The only purpose is to check exports. It knows nothing of PaLM: which norm, which rotary positions,
which tensor multiplies what, is read from the written file as those engines read it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from palmscale.storage.tensor import Tensor, Tensors


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """The fields of a config.json or a GGUF file that logits depend on.

    Attributes:
        layers: N.
        heads: H.
        head_dim: K.
        rms: whether norms are RMSNorm; otherwise LayerNorm, which subtracts the mean.
        norm_eps: added to the norms' mean square.
        rope_theta: base of the rotary frequencies.
        logit_scale: factor of the logits.
    """

    layers: int
    heads: int
    head_dim: int
    rms: bool
    norm_eps: float
    rope_theta: float
    logit_scale: float


def of_config(config: Mapping[str, Any]) -> Architecture:
    """Returns the architecture of a config.json of Cohere2MoeForCausalLM."""
    rms_eps = config.get("rms_norm_eps")
    return Architecture(
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        head_dim=config["head_dim"],
        rms=rms_eps is not None,
        norm_eps=config["layer_norm_eps"] if rms_eps is None else rms_eps,
        rope_theta=config["rope_parameters"]["rope_theta"],
        logit_scale=config["logit_scale"],
    )


def logits(architecture: Architecture, tensors: Tensors, tokens_L: np.ndarray) -> np.ndarray:
    """Returns float64 logits [L, V]; a few blocks of the tensors are in memory at a time.

    Args:
        architecture: of the model.
        tensors: by the names of Hugging Face's Cohere2Moe; kernels are [out, in].
        tokens_L: ids of one text.
    """
    table_VD = tensors["model.embed_tokens.weight"]
    rows = [table_VD.read(slice(t, t + 1))[0] for t in tokens_L.tolist()]
    x_LD = np.stack(rows).astype(np.float64)
    for n in range(architecture.layers):
        prefix = f"model.layers.{n}."
        layer = {name.removeprefix(prefix): t for name, t in tensors.items() if prefix in name}
        y_LD = _norm(architecture, x_LD, layer["input_layernorm.weight"])
        x_LD = x_LD + _attention(architecture, layer, y_LD) + _mlp(layer, y_LD)
    y_LD = _norm(architecture, x_LD, tensors["model.norm.weight"])
    return _times(y_LD, table_VD) * architecture.logit_scale


def _norm(architecture: Architecture, x_LD: np.ndarray, weight_D: Tensor) -> np.ndarray:
    if not architecture.rms:
        x_LD = x_LD - x_LD.mean(axis=-1, keepdims=True)
    mean_square_L1 = (x_LD * x_LD).mean(axis=-1, keepdims=True)
    return x_LD / np.sqrt(mean_square_L1 + architecture.norm_eps) * weight_D.read()


def _attention(architecture: Architecture, layer: Tensors, y_LD: np.ndarray) -> np.ndarray:
    L, H, K = len(y_LD), architecture.heads, architecture.head_dim
    q_LHK = _times(y_LD, layer["self_attn.q_proj.weight"]).reshape(L, H, K)
    k_LK = _times(y_LD, layer["self_attn.k_proj.weight"])
    v_LK = _times(y_LD, layer["self_attn.v_proj.weight"])
    q_LHK = _rotate(q_LHK, architecture.rope_theta)
    k_LK = _rotate(k_LK[:, None], architecture.rope_theta)[:, 0]
    score_HLS = np.einsum("lhk,sk->hls", q_LHK, k_LK) / np.sqrt(K)
    score_HLS = np.where(np.tril(np.ones((L, L), bool)), score_HLS, -np.inf)
    weight_HLS = np.exp(score_HLS - score_HLS.max(axis=-1, keepdims=True))
    weight_HLS /= weight_HLS.sum(axis=-1, keepdims=True)
    o_LHK = np.einsum("hls,sk->lhk", weight_HLS, v_LK)
    return _times(o_LHK.reshape(L, H * K), layer["self_attn.o_proj.weight"])


def _rotate(x_LHK: np.ndarray, theta: float) -> np.ndarray:
    """Rotates pair j, dims 2j and 2j + 1, by position * theta^(-2j/K) radians."""
    L, _, K = x_LHK.shape
    angle_LK = np.arange(L)[:, None] * theta ** (-2 * np.arange(K // 2) / K)
    turned = (x_LHK[..., 0::2] + 1j * x_LHK[..., 1::2]) * np.exp(1j * angle_LK)[:, None]
    return np.stack([turned.real, turned.imag], axis=-1).reshape(x_LHK.shape)


def _mlp(layer: Tensors, y_LD: np.ndarray) -> np.ndarray:
    gate_LF = _times(y_LD, layer["mlp.gate_proj.weight"])
    up_LF = _times(y_LD, layer["mlp.up_proj.weight"])
    swish_LF = gate_LF / (1 + np.exp(-np.clip(gate_LF, -700, 700)))
    return _times(swish_LF * up_LF, layer["mlp.down_proj.weight"])


def _times(x_LI: np.ndarray, weight_OI: Tensor) -> np.ndarray:
    y_LO = np.zeros((len(x_LI), weight_OI.shape[0]))
    for (rows, columns), block in weight_OI.blocks():
        y_LO[:, rows] += x_LI[:, columns] @ block.astype(np.float64).T
    return y_LO
