"""PEFT's adapter on the exported base is the exported merged model."""

import json

import jax
import numpy as np
import pytest
from tiny_training import MODEL

from palmscale.errors import UserError
from palmscale.interop import hf, peft
from palmscale.interop.layouts import Outgoing
from palmscale.interop.safetensors_file import read_safetensors
from palmscale.interop.tensors import of_array
from palmscale.model.adapted import is_adapted
from palmscale.model.lora import Lora, adapted_shapes, adapters_of, base_of, merged
from palmscale.partition.shardings import unbox
from palmscale.train.state import abstract_params
from palmscale.trees import filled, named_leaves

TARGETS = ("query", "key", "value", "attention_out")


def drawn(targets):
    """Parameters with adapters, all of them random."""
    lora = Lora(rank=3, alpha=6.0, targets=targets)
    shapes = unbox(adapted_shapes(lora, MODEL, abstract_params(MODEL)))
    random = np.random.default_rng(0)
    leaves = {p: random.normal(size=s.shape).astype(np.float32)
              for p, s in named_leaves(shapes).items()}  # fmt: skip
    return filled(shapes, leaves)


def tensors(tree):
    return {path: of_array(np.asarray(leaf)) for path, leaf in named_leaves(tree).items()}


def test_the_matrices_are_the_difference_of_the_exported_models():
    whole = drawn(TARGETS)
    summed = jax.tree.map(lambda x: merged(x) if is_adapted(x) else x, whole, is_leaf=is_adapted)
    base, other = (hf.exported(MODEL, tensors(tree)) for tree in (base_of(whole), summed))
    found = peft.exported(MODEL, tensors(adapters_of(whole)))
    changed = [name for name in base if not np.array_equal(base[name].read(), other[name].read())]
    assert len(found) == 2 * len(changed) == 2 * MODEL.depth * len(TARGETS)
    for name in changed:
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        down, up = (found[f"{prefix}.lora_{part}.weight"].read() for part in "AB")
        difference = other[name].read() - base[name].read()
        assert down.shape[0] == up.shape[1] == 3
        np.testing.assert_allclose(2.0 * up @ down, difference, atol=1e-4)


def outgoing(targets):
    return Outgoing(
        model=MODEL,
        params=tensors(adapters_of(drawn(targets))),
        vocabulary=None,
        context_length=8,
        dtype="bfloat16",
        origin={
            "lora": {"rank": 3, "alpha": 6.0, "targets": list(targets)},
            "base": {"workdir": "runs/mine", "step": 1, "digest": ""},
        },
    )


def test_the_folder_has_the_config_and_the_weights(tmp_path):
    peft.write(outgoing(TARGETS), tmp_path / "out")
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert config["r"] == 3 and config["lora_alpha"] == 6.0 and config["peft_type"] == "LORA"
    assert config["target_modules"] == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert config["base_model_name_or_path"] == "mine"
    written = read_safetensors(tmp_path / "out/adapter_model.safetensors")
    assert len(written) == 2 * MODEL.depth * len(TARGETS)
    assert {str(tensor.dtype) for tensor in written.values()} == {"bfloat16"}


def test_adapters_that_peft_would_leave_out_are_refused(tmp_path):
    with pytest.raises(UserError, match="cannot express adapters of down, up"):
        peft.write(outgoing(("query", "up", "down")), tmp_path / "out")
    assert not (tmp_path / "out").exists()
