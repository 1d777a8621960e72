"""The weights of `formula_weights` by the names, shapes and order of each original program.

Written out by hand from the originals' own state dicts, and independent of palmscale.interop.
"""

import numpy as np
from formula_weights import CASES, weights


def _fused(flat: dict, layer: int) -> np.ndarray:
    """Returns the originals' one input kernel: q | k | v | up | gate, with the gate last."""
    names = ("query", "key", "value", "up", "gate")
    return np.concatenate([flat[f"{layer}/{name}"] for name in names], axis=1)


def palm_flax(case: str) -> dict[str, np.ndarray]:
    """Returns the parameters of PaLM-flax, with names joined by `/`."""
    flat, state = weights(case), {}
    state["params/Embed_0/embedding"] = flat["embedding"]
    for i in range(CASES[case]["depth"]):
        inner = "params/ParallelTransformer_0"
        state[f"{inner}/PreNorm_{i}/LayerNorm_0/scale"] = flat[f"{i}/norm"]
        state[f"{inner}/ParallelTransformerBlock_{i}/Dense_0/kernel"] = _fused(flat, i)
        state[f"{inner}/ParallelTransformerBlock_{i}/Dense_1/kernel"] = flat[f"{i}/attention_out"]
        state[f"{inner}/ParallelTransformerBlock_{i}/Dense_2/kernel"] = flat[f"{i}/down"]
    state["params/LayerNorm_0/scale"] = flat["final_norm"]
    return state


def palm_pytorch(case: str) -> dict[str, np.ndarray]:
    """Returns the state dict of PaLM-pytorch."""
    flat, depth = weights(case), CASES[case]["depth"]
    state = {"0.weight": flat["embedding"]}
    for i in range(depth):
        _torch_block(state, f"{i + 1}.fn", flat, i, case, down="ff_out.1", xpos=False)
    state[f"{depth + 1}.gamma"] = flat["final_norm"]
    state[f"{depth + 1}.beta"] = np.zeros_like(flat["final_norm"])
    state[f"{depth + 2}.weight"] = flat["embedding"]
    return state


def palm_rlhf(case: str, *, offset: float = 0.0) -> dict[str, np.ndarray]:
    """Returns the state dict of PaLM-rlhf-pytorch, which adds `offset` to each norm scale."""
    flat, state = weights(case), {}
    state["token_emb.weight"] = flat["embedding"]
    for i in range(CASES[case]["depth"]):
        _torch_block(state, f"layers.{i}.fn", flat, i, case, down="ff_out.2", xpos=True)
    state["norm.gamma"] = flat["final_norm"]
    state["norm.beta"] = np.zeros_like(flat["final_norm"])
    state["to_logits.weight"] = flat["embedding"]
    return {n: a - np.float32(offset) if n.endswith(".gamma") else a for n, a in state.items()}


def palm_jax(case: str) -> dict[str, np.ndarray]:
    """Returns the arrays of PaLM-jax in the order of its fields, whose rotary is interleaved."""
    flat, K = weights(case), CASES[case]["dim_head"]
    state = {"embedding": flat["embedding"], "norm.gamma": flat["final_norm"]}
    order = np.empty(K, int)
    order[0::2], order[1::2] = np.arange(K // 2), np.arange(K // 2, K)
    for i in range(CASES[case]["depth"]):
        query = flat[f"{i}/query"]
        heads = query.reshape(len(query), -1, K)[:, :, order].reshape(query.shape)
        turned = {**flat, f"{i}/query": heads, f"{i}/key": flat[f"{i}/key"][:, order]}
        state[f"layers.{i}.norm.gamma"] = flat[f"{i}/norm"]
        state[f"layers.{i}.wi"] = _fused(turned, i)
        state[f"layers.{i}.attn_wo"] = flat[f"{i}/attention_out"]
        state[f"layers.{i}.ff_wo"] = flat[f"{i}/down"]
    return state


def t5x(case: str, *, scan_axis: int = 0) -> dict[str, np.ndarray]:
    """Returns Google's fused and stacked layout, of which scales act as 1 + s."""
    flat, c = weights(case), CASES[case]
    N, H, K = c["depth"], c["heads"], c["dim_head"]
    D, F = c["dim"], c["dim"] * c["ff_mult"]
    q_wi, kv, o_wo, norm = [], [], [], []
    for i in range(N):
        one = {name.partition("/")[2]: a for name, a in flat.items() if name.startswith(f"{i}/")}
        query, gate, up = (one[n].reshape(D, H, -1) for n in ("query", "gate", "up"))
        q_wi.append(np.concatenate([query, gate, up], -1))
        kv.append(np.concatenate([one["key"], one["value"]], -1)[:, None])
        out, down = one["attention_out"].reshape(H, K, D), one["down"].reshape(H, F // H, D)
        o_wo.append(np.concatenate([out, down], 1))
        norm.append(one["norm"] - 1)
    decoder = "target/decoder/decoder"
    stacked = {"q_wi_fused/kernel": q_wi, "kv_fused/kernel": kv, "o_wo_fused/kernel": o_wo}
    stacked["layer_norm/scale"] = norm
    return {
        "target/decoder/token_embedder/embedding": flat["embedding"],
        **{f"{decoder}/{name}": np.stack(each, scan_axis) for name, each in stacked.items()},
    }


def _torch_block(state, block, flat, i, case, *, down, xpos):
    K = CASES[case]["dim_head"]
    even = np.arange(0, K, 2, dtype=np.float32)
    powers = (10_000.0 ** (even / np.float32(K)).astype(np.float64)).astype(np.float32)
    state[f"{block}.norm.gamma"] = flat[f"{i}/norm"]
    state[f"{block}.norm.beta"] = np.zeros_like(flat[f"{i}/norm"])
    state[f"{block}.rotary_emb.inv_freq"] = 1 / powers
    if xpos:
        state[f"{block}.rotary_emb.scale"] = (even + 0.4 * K) / np.float32(1.4 * K)
    state[f"{block}.fused_attn_ff_proj.weight"] = _fused(flat, i).T
    state[f"{block}.attn_out.weight"] = flat[f"{i}/attention_out"].T
    state[f"{block}.{down}.weight"] = flat[f"{i}/down"].T
