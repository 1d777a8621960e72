"""PaLM by the paper's formulas, written out in float64 NumPy one head at a time.

Sources: Chowdhery et al. 2022 section 2; T5's LayerNorm (no mean, no bias; stored scale s acts as
1 + s); Su et al. 2021 for rotary positions over the halves of a head; Shazeer 2019 and 2020 for
the shared key and value head and for SwiGLU.
"""

import jax
import numpy as np

RMS_EPSILON = 1e-6


def rms_norm(x, stored_scale):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + RMS_EPSILON) * (1 + stored_scale)


def rope(x_LK):
    """Turns dims (i, i + K/2) at position t by t * 10000^(-2i/K): a product in the plane."""
    L, K = x_LK.shape
    half = K // 2
    angle = np.arange(L)[:, None] * 10000.0 ** (-2 * np.arange(half) / K)
    turned = (x_LK[:, :half] + 1j * x_LK[:, half:]) * np.exp(1j * angle)
    return np.concatenate([turned.real, turned.imag], axis=1)


def causal_softmax(score_LL):
    weight_LL = np.zeros_like(score_LL)
    for t, row in enumerate(score_LL):
        seen = np.exp(row[: t + 1] - row[: t + 1].max())
        weight_LL[t, : t + 1] = seen / seen.sum()
    return weight_LL


def block(w, x_LD):
    """One parallel layer of one sequence: x + attention(norm(x)) + mlp(norm(x))."""
    y_LD = rms_norm(x_LD, w["norm"])
    H, K = w["query"].shape[1:]
    k_LK, v_LK = rope(y_LD @ w["key"]), y_LD @ w["value"]
    attention_LD = 0
    for h in range(H):
        q_LK = rope(y_LD @ w["query"][:, h])
        weight_LL = causal_softmax(q_LK @ k_LK.T / np.sqrt(K))
        attention_LD = attention_LD + weight_LL @ v_LK @ w["attention_out"][h]
    gate_LF, up_LF = y_LD @ w["gate"], y_LD @ w["up"]
    mlp_LD = (gate_LF / (1 + np.exp(-gate_LF)) * up_LF) @ w["down"]
    return x_LD + attention_LD + mlp_LD


def logits(w, token_L, final_norm):
    x_LD = w["embedding"][token_L]
    for i in range(len(w["layers"]["norm"])):
        x_LD = block({name: array[i] for name, array in w["layers"].items()}, x_LD)
    if final_norm != "none":
        x_LD = rms_norm(x_LD, w["final_norm"] if final_norm == "scaled" else 0.0)
    return x_LD @ w["embedding"].T / np.sqrt(x_LD.shape[-1])


def in_float64(tree):
    return jax.tree.map(lambda array: np.asarray(array, np.float64), tree)
