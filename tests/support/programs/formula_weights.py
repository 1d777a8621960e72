"""Weights of a PaLM by formula, so that any program in any framework can hold the same ones.

Each number is an integer hash of (parameter name, index), mapped to a uniform distribution: pure
NumPy arithmetic, the same on every machine and version. Nothing here knows palmscale, JAX or torch.
"""

import math
import zlib

import numpy as np

# The second case: heads do not divide the mlp width (96), nor the sequence the query chunk.
CASES = {
    "plain": dict(num_tokens=97, dim=48, depth=2, heads=6, dim_head=16, ff_mult=4),
    "odd": dict(num_tokens=61, dim=32, depth=3, heads=5, dim_head=8, ff_mult=3),
}
BATCH, LENGTH = 2, 33


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns float64 numbers in [-1, 1), a hash (splitmix64) of `name` and each flat index."""
    index = np.arange(math.prod(shape), dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = (index + (np.uint64(zlib.crc32(name.encode())) << np.uint64(32))) * np.uint64(
            0x9E3779B97F4A7C15
        )
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return ((z >> np.uint64(11)).astype(np.float64) / 2.0**52 - 1.0).reshape(shape)


def tokens(case: str) -> np.ndarray:
    """Returns int32 token ids [BATCH, LENGTH]."""
    share = (uniform(f"{case}/tokens", (BATCH, LENGTH)) + 1) / 2
    return (share * CASES[case]["num_tokens"]).astype(np.int32)


def weights(case: str) -> dict[str, np.ndarray]:
    """Returns float32 `embedding` [V, D], `final_norm` [D], and for layer i:

    `i/norm` [D], `i/query` [D, H K], `i/key` and `i/value` [D, K], `i/gate` and `i/up` [D, F],
    `i/attention_out` [H K, D], `i/down` [F, D]. Kernels have variance 1 / fan-in; norm scales lie
    around 1, not on it, and what is multiplied is stored: no offset.
    """
    c = CASES[case]
    D, HK, K, F = c["dim"], c["heads"] * c["dim_head"], c["dim_head"], c["dim"] * c["ff_mult"]
    shapes = dict(
        query=(D, HK), key=(D, K), value=(D, K), gate=(D, F), up=(D, F),
        attention_out=(HK, D), down=(F, D),
    )  # fmt: skip
    tree = {
        "embedding": 0.15 * uniform(f"{case}/embedding", (c["num_tokens"], D)),
        "final_norm": 1 + 0.4 * uniform(f"{case}/final_norm", (D,)),
    }
    for i in range(c["depth"]):
        tree[f"{i}/norm"] = 1 + 0.4 * uniform(f"{case}/{i}/norm", (D,))
        for name, shape in shapes.items():
            bound = math.sqrt(3 / shape[0])
            tree[f"{i}/{name}"] = bound * uniform(f"{case}/{i}/{name}", shape)
    return {name: array.astype(np.float32) for name, array in tree.items()}


def stack(case: str, *, scale_offset: float) -> dict:
    """Returns the same weights as palmscale's parameter tree, scales stored less `scale_offset`."""
    c, flat = CASES[case], weights(case)
    H, K = c["heads"], c["dim_head"]
    layers = {
        name: np.stack([flat[f"{i}/{name}"] for i in range(c["depth"])])
        for name in ("norm", "query", "key", "value", "gate", "up", "attention_out", "down")
    }
    N, D = layers["norm"].shape
    layers["norm"] = layers["norm"] - scale_offset
    layers["query"] = layers["query"].reshape(N, D, H, K)
    layers["attention_out"] = layers["attention_out"].reshape(N, H, K, D)
    return {
        "embedding": flat["embedding"],
        "layers": layers,
        "final_norm": flat["final_norm"] - scale_offset,
    }
