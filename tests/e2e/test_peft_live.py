"""PEFT and transformers run an exported base with its exported adapter, in their own environment.

PEFT_PYTHON names the Python of one; without it, one is made.
"""

import os
import subprocess

import jax
import numpy as np
import pytest
from other_python import python_with

from palmscale import PaLM
from palmscale.data.vocabulary import ByteVocabulary
from palmscale.interop import hf, peft
from palmscale.interop.layouts import Outgoing
from palmscale.interop.tensors import of_array
from palmscale.model.interface import variables_of
from palmscale.model.lora import Lora, adapted_shapes, adapters_of, base_of, joined
from palmscale.partition.shardings import unbox
from palmscale.train.state import abstract_params
from palmscale.trees import named_leaves

PACKAGES = ["torch==2.13.0", "transformers==5.24.0", "peft==0.21.2"]
MODEL = PaLM(dim=32, num_tokens=259, depth=2, heads=4, dim_head=6)
LORA = Lora(rank=3, alpha=6.0, targets=("query", "key", "value", "attention_out"))
SCRIPT = """
import sys, numpy as np, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
folder = sys.argv[1]
base = AutoModelForCausalLM.from_pretrained(f"{folder}/hf", dtype=torch.float32)
model = PeftModel.from_pretrained(base, f"{folder}/peft")
with torch.no_grad():
    logits = model(torch.as_tensor(np.load(f"{folder}/ids.npy"))).logits
np.save(f"{folder}/logits.npy", logits.numpy())
"""

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The Python of an environment with PEFT."""
    return python_with(PACKAGES, "PEFT_PYTHON", tmp_path_factory.mktemp("peft") / "env")


def outgoing(tree):
    return Outgoing(
        model=MODEL,
        params={path: of_array(np.asarray(leaf)) for path, leaf in named_leaves(tree).items()},
        vocabulary=ByteVocabulary(),
        context_length=64,
        dtype="float32",
        origin={
            "name": "base", "step": 1, "num_params": 1, "datasets": {}, "averaged": 1,
            "lora": {"rank": LORA.rank, "alpha": LORA.alpha, "targets": LORA.targets},
            "base": {"workdir": "base", "step": 1, "digest": ""},
        },
    )  # fmt: skip


def test_peft_gives_our_logits(python, tmp_path):
    random = np.random.default_rng(0)
    shapes = unbox(adapted_shapes(LORA, MODEL, abstract_params(MODEL)))
    adapters = {
        path: random.normal(size=leaf.shape).astype(np.float32) / 4
        for path, leaf in named_leaves(adapters_of(shapes)).items()
    }
    variables = MODEL.init({"params": jax.random.key(0)}, np.zeros((1, 1), np.int32))
    params = joined(shapes, named_leaves(unbox(variables["params"])), adapters)
    hf.write(outgoing(base_of(params)), tmp_path / "hf")
    peft.write(outgoing(adapters_of(params)), tmp_path / "peft")
    ids_BL = random.integers(2, 259, (2, 40))
    np.save(tmp_path / "ids.npy", ids_BL)
    given = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    line = [python, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, env=given)
    assert done.returncode == 0, done.stderr[-4000:]
    theirs = np.load(tmp_path / "logits.npy")
    ours, bare = (MODEL.apply(variables_of(p), ids_BL) for p in (params, base_of(params)))
    assert np.abs(ours - bare).max() > 0.5
    assert np.abs(ours - theirs).max() <= 1e-5
