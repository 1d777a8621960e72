import dataclasses

import pytest
from flax import linen as nn
from outgoing_model import MODEL

from palmscale.errors import UserError
from palmscale.interop.expressible import check_is_cohere, check_is_palm
from palmscale.model.palm import PaLM


class Own(PaLM):
    pass


def test_palm_is_returned():
    assert check_is_palm(MODEL, "hf") is MODEL is check_is_cohere(MODEL, "hf")


@pytest.mark.parametrize("model", [nn.Dense(3), Own(dim=4, num_tokens=4, depth=1)])
def test_a_module_of_the_users_own_is_refused_by_name(model):
    with pytest.raises(UserError, match=f"hf cannot express the module {type(model).__name__}"):
        check_is_palm(model, "hf")


def test_what_its_own_file_can_hold_another_engine_may_not():
    model = dataclasses.replace(MODEL, rotary="xpos", final_norm="none")
    assert check_is_palm(model, "safetensors") is model
    with pytest.raises(UserError, match="gguf cannot express PaLM.rotary='xpos'"):
        check_is_cohere(model, "gguf")
