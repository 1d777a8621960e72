"""Layouts are recognized by their names."""

import original_states
import pytest

from palmscale.interop.layouts import IMPORTS
from palmscale.interop.recognize import hint, looks_like

NAMES = {
    "palm_flax": original_states.palm_flax("odd"),
    "palm_pytorch": original_states.palm_pytorch("odd"),
    "palm_rlhf": original_states.palm_rlhf("odd"),
    "palm_jax": original_states.palm_jax("odd"),
    "t5x": original_states.t5x("plain"),
    "hf": ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight"],
    "safetensors": ["embedding", "layers/attention_out"],
}


@pytest.mark.parametrize("layout", NAMES)
def test_each_layout_is_recognized_by_its_names(layout):
    assert looks_like(NAMES[layout]) == layout
    assert hint(NAMES[layout], layout) == ""
    assert f"like the layout {layout}" in hint(NAMES[layout], "another")


def test_every_layout_that_is_imported_can_be_recognized():
    assert NAMES.keys() == IMPORTS.keys()


def test_other_names_are_not_recognized():
    assert looks_like(["transformer.h.0.attn.c_attn.weight"]) is None
    assert hint([], "t5x") == ""
