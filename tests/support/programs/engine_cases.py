"""Six shapes of PaLM with weights by formula, for which other engines' logits are stored.

Nothing here knows palmscale or JAX: the engines run in environments without them.
"""

import math

import numpy as np
from formula_weights import uniform

# Both norms; H K below, equal to and above D; padded vocabularies; a tied scale and a given one.
CASES = {
    "rms_narrow": dict(norm="rms", heads=2, dim_head=16, final_norm="scaled"),
    "rms_square": dict(norm="rms", heads=4, dim_head=16, final_norm="unscaled", padded_tokens=272),
    "rms_wide": dict(norm="rms", heads=5, dim_head=32, final_norm="scaled", logit_scale=0.2),
    "layer_narrow": dict(norm="layer", heads=1, dim_head=32, final_norm="scaled", logit_scale=0.1),
    "layer_square": dict(norm="layer", heads=2, dim_head=32, final_norm="unscaled"),
    "layer_wide": dict(
        norm="layer", norm_eps=1e-5, norm_scale_offset=0.0, heads=6, dim_head=32, ff_mult=2,
        final_norm="scaled", padded_tokens=320,
    ),
}  # fmt: skip
NUM_TOKENS, DIM, DEPTH = 259, 64, 2
LENGTH, GENERATED = 24, 8
POSITIONS = (0, 11, LENGTH - 1)  # at which logits are stored


def fields(case: str) -> dict:
    """Returns the fields of PaLM."""
    return dict(num_tokens=NUM_TOKENS, dim=DIM, depth=DEPTH) | CASES[case]


def tokens(case: str) -> np.ndarray:
    """Returns int32 ids [LENGTH]; bos begins the text and stands within it."""
    share = (uniform(f"{case}/tokens", (LENGTH,)) + 1) / 2
    ids = (share * NUM_TOKENS).astype(np.int32)
    ids[[0, 7]] = 0
    return ids


def parameters(case: str) -> dict[str, np.ndarray]:
    """Returns float32 parameters by path, as large as in a model that was just initialized."""
    f = fields(case)
    N, D, H, K = DEPTH, DIM, f["heads"], f["dim_head"]
    F, rows = f.get("ff_mult", 4) * D, f.get("padded_tokens", NUM_TOKENS)
    shapes = {  # fan-in, shape
        "query": (D, (N, D, H, K)), "key": (D, (N, D, K)), "value": (D, (N, D, K)),
        "gate": (D, (N, D, F)), "up": (D, (N, D, F)), "down": (F, (N, F, D)),
        "attention_out": (H * K, (N, H, K, D)),
    }  # fmt: skip
    center = 1 - f.get("norm_scale_offset", 1.0)
    found = {
        "embedding": math.sqrt(3) * uniform(f"{case}/embedding", (rows, D)),
        "layers/norm": center + 0.4 * uniform(f"{case}/norm", (N, D)),
    }
    for name, (fan_in, shape) in shapes.items():
        found[f"layers/{name}"] = math.sqrt(3 / fan_in) * uniform(f"{case}/{name}", shape)
    if f["final_norm"] == "scaled":
        found["final_norm"] = center + 0.4 * uniform(f"{case}/final_norm", (D,))
    return {name: values.astype(np.float32) for name, values in found.items()}
