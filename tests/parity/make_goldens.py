"""Writes the goldens of this folder by running the original programs on weights by formula.

Run it once for each original, in an environment that has what the original needs; none of their
code is in this repository, and no test needs torch:

    # https://github.com/conceptofmind/PaLM-flax (350ab12), with jax, flax and einops installed
    python tests/parity/make_goldens.py palm_flax --source=PaLM-flax

    # https://github.com/lucidrains/PaLM-pytorch, from PyPI. --no-deps: it asks for triton.
    pip install torch==2.13.0 numpy && pip install --no-deps PaLM-pytorch==0.2.2 einops
    python tests/parity/make_goldens.py palm_pytorch

    # https://github.com/lucidrains/PaLM-rlhf-pytorch, before and after its norms changed
    pip install --no-deps PaLM-rlhf-pytorch==0.2.3 accelerate \
        adam-atan2-pytorch beartype einops lion-pytorch tqdm
    python tests/parity/make_goldens.py palm_rlhf      # and again with 0.2.4

    # https://github.com/lucidrains/PaLM-jax, from PyPI. --no-deps: it pins an old einops.
    pip install jax equinox einops && pip install --no-deps PaLM-jax==0.1.2
    python tests/parity/make_goldens.py palm_jax

PaLM-flax does not run as it is; two of its lines are replaced in memory, JAX is left alone.
All are given float32 weights and write float32 logits [batch, length, vocabulary] for each case.
"""

import argparse
import functools
import pathlib
import sys
from importlib.metadata import version
from typing import Any

import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "support/programs"))
import formula_weights  # noqa: E402
import original_palm_flax  # noqa: E402
import original_states  # noqa: E402


def run_palm_flax(case: str, source: pathlib.Path) -> np.ndarray:
    model = original_palm_flax.load(source).PaLM(**formula_weights.CASES[case])
    tree: dict = {}
    for name, array in original_states.palm_flax(case).items():
        *path, last = name.split("/")
        functools.reduce(lambda node, key: node.setdefault(key, {}), path, tree)[last] = array
    return np.asarray(model.apply(tree, formula_weights.tokens(case)))


def run_palm_pytorch(case: str) -> np.ndarray:
    from palm_pytorch import PaLM

    return run_torch(PaLM(**formula_weights.CASES[case]), original_states.palm_pytorch(case), case)


def run_palm_rlhf(case: str) -> np.ndarray:
    from palm_rlhf_pytorch import PaLM

    offset = 0.0 if version("PaLM-rlhf-pytorch") == "0.2.3" else 1.0
    state = original_states.palm_rlhf(case, offset=offset)
    model = PaLM(**formula_weights.CASES[case]).eval()
    for name, buffer in model.named_buffers():  # what a state dict of ours must hold bit for bit
        np.testing.assert_array_equal(state[name], buffer.numpy(), err_msg=name)
    return run_torch(model, state, case)


def run_torch(model: Any, state: dict, case: str) -> np.ndarray:
    import torch

    model.load_state_dict({name: torch.as_tensor(a) for name, a in state.items()})
    with torch.no_grad():
        return model(torch.as_tensor(formula_weights.tokens(case)).long()).numpy()


def run_palm_jax(case: str) -> np.ndarray:
    import io

    import equinox
    import jax
    from palm_jax.palm import PaLM

    model = PaLM(**formula_weights.CASES[case], key=jax.random.key(0))
    file = io.BytesIO()  # as equinox.tree_serialise_leaves writes it: one array after another
    for array in original_states.palm_jax(case).values():
        np.save(file, array)
    file.seek(0)
    model = equinox.tree_deserialise_leaves(file, model)
    assert not file.read()
    return np.asarray(jax.vmap(model)(formula_weights.tokens(case)))


RUNS = {
    "palm_flax": run_palm_flax,
    "palm_pytorch": run_palm_pytorch,
    "palm_rlhf": run_palm_rlhf,
    "palm_jax": run_palm_jax,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("original", choices=RUNS)
    parser.add_argument("--source", type=pathlib.Path, help="checkout of PaLM-flax")
    args = parser.parse_args()
    if args.original == "palm_flax" and args.source is None:
        parser.error("palm_flax needs --source, a checkout of PaLM-flax.")
    logits = {}
    for case in formula_weights.CASES:
        further = [args.source] if args.original == "palm_flax" else []
        logits[case] = RUNS[args.original](case, *further)
        print(case, logits[case].shape, logits[case].dtype, f"std {logits[case].std():.3f}")
    name = args.original
    if name == "palm_rlhf":
        name += f"_{version('PaLM-rlhf-pytorch')}"
    np.savez_compressed(HERE / f"{name}.npz", **logits)


if __name__ == "__main__":
    main()
