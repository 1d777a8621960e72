"""Writes the goldens of this folder by running the original programs on weights by formula.

Run it once for each original, in an environment that has what the original needs; none of their
code is in this repository, and no test needs torch:

    # https://github.com/conceptofmind/PaLM-flax (350ab12), with jax, flax and einops installed
    python tests/parity/make_goldens.py palm_flax --source=PaLM-flax

    # https://github.com/lucidrains/PaLM-pytorch, from PyPI. --no-deps: it asks for triton.
    pip install torch==2.13.0 numpy && pip install --no-deps PaLM-pytorch==0.2.2 einops
    python tests/parity/make_goldens.py palm_pytorch

PaLM-flax does not run as it is; two of its lines are replaced in memory, JAX is left alone.
Both are given float32 weights and write float32 logits [batch, length, vocabulary] for each case.
"""

import argparse
import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "support/programs"))
import formula_weights  # noqa: E402
import original_palm_flax  # noqa: E402


def fused(flat: dict, layer: int) -> np.ndarray:
    """Returns the originals' one input kernel: q | k | v | up | gate, with the gate last."""
    names = ("query", "key", "value", "up", "gate")
    return np.concatenate([flat[f"{layer}/{name}"] for name in names], axis=1)


def run_palm_flax(case: str, source: pathlib.Path) -> np.ndarray:
    flat = formula_weights.weights(case)
    model = original_palm_flax.load(source).PaLM(**formula_weights.CASES[case])
    transformer = {}
    for i in range(model.depth):
        transformer[f"PreNorm_{i}"] = {"LayerNorm_0": {"scale": flat[f"{i}/norm"]}}
        transformer[f"ParallelTransformerBlock_{i}"] = {
            "Dense_0": {"kernel": fused(flat, i)},
            "Dense_1": {"kernel": flat[f"{i}/attention_out"]},
            "Dense_2": {"kernel": flat[f"{i}/down"]},
        }
    params = {
        "Embed_0": {"embedding": flat["embedding"]},
        "LayerNorm_0": {"scale": flat["final_norm"]},
        "ParallelTransformer_0": transformer,
    }
    return np.asarray(model.apply({"params": params}, formula_weights.tokens(case)))


def run_palm_pytorch(case: str) -> np.ndarray:
    import torch
    from palm_pytorch import PaLM

    flat = formula_weights.weights(case)
    model = PaLM(**formula_weights.CASES[case])
    depth = formula_weights.CASES[case]["depth"]
    state = model.state_dict()  # keeps the buffers; each parameter below is replaced
    state["0.weight"] = state[f"{depth + 2}.weight"] = flat["embedding"]
    state[f"{depth + 1}.gamma"] = flat["final_norm"]
    for i in range(depth):
        block = f"{i + 1}.fn"
        state[f"{block}.norm.gamma"] = flat[f"{i}/norm"]
        state[f"{block}.fused_attn_ff_proj.weight"] = fused(flat, i).T
        state[f"{block}.attn_out.weight"] = flat[f"{i}/attention_out"].T
        state[f"{block}.ff_out.1.weight"] = flat[f"{i}/down"].T
    model.load_state_dict({name: torch.as_tensor(a) for name, a in state.items()})
    with torch.no_grad():
        return model(torch.as_tensor(formula_weights.tokens(case)).long()).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("original", choices=("palm_flax", "palm_pytorch"))
    parser.add_argument("--source", type=pathlib.Path, help="checkout of PaLM-flax")
    args = parser.parse_args()
    if args.original == "palm_flax" and args.source is None:
        parser.error("palm_flax needs --source, a checkout of PaLM-flax.")
    logits = {}
    for case in formula_weights.CASES:
        if args.original == "palm_flax":
            logits[case] = run_palm_flax(case, args.source)
        else:
            logits[case] = run_palm_pytorch(case)
        print(case, logits[case].shape, logits[case].dtype, f"std {logits[case].std():.3f}")
    np.savez_compressed(HERE / f"{args.original}.npz", **logits)


if __name__ == "__main__":
    main()
