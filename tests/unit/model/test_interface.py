"""What palmscale asks of a module: PaLM answers, and so does a module with the least."""

import pytest
from flax import linen as nn

from palmscale import PaLM
from palmscale.errors import UserError
from palmscale.model import interface
from palmscale.model.interface import CacheSpec

MODEL = PaLM(dim=16, num_tokens=30, padded_tokens=32, depth=2, heads=2, dim_head=8)


class Least(nn.Module):
    def hidden(self, tokens_BL):
        return tokens_BL

    def unembed(self, x_BLD):
        return x_BLD


class Writer(Least):
    def extend(self, tokens_BL, cache):
        return tokens_BL, cache


class Describing(Writer):
    def cache_spec(self):
        return CacheSpec(layers=3, head_dim=5, dtype="bfloat16")


def test_palm_says_all_that_is_asked():
    assert interface.num_tokens(MODEL) == 30 and interface.stored_tokens(MODEL) == 32
    assert interface.depth(MODEL) == 2 and interface.remat(MODEL) == "none"
    assert interface.attention_flops_per_token(MODEL, 10) == 12 * 2 * 2 * 8 * 10
    assert interface.cache_spec(MODEL) == CacheSpec(
        layers=2, head_dim=8, dtype="float32", ragged=True
    )


def test_what_a_module_does_not_say_has_a_default():
    interface.check_trainable(Least())
    assert interface.num_tokens(Least()) is interface.stored_tokens(Least()) is None
    assert interface.depth(Least()) == 1 and interface.remat(Least()) == "none"
    assert interface.attention_flops_per_token(Least(), 10) == 0
    assert not interface.generates(Least()) and interface.generates(Writer())


def test_a_module_without_the_two_methods_cannot_be_trained():
    with pytest.raises(UserError, match="Dense has no `hidden`; .*unembed"):
        interface.check_trainable(nn.Dense(4))


def test_a_module_without_extend_cannot_generate():
    with pytest.raises(UserError, match="Least cannot generate text: it has no `extend"):
        interface.cache_spec(Least())


def test_a_cache_is_described_by_a_method_or_by_fields():
    assert interface.cache_spec(Describing()).head_dim == 5
    with pytest.raises(UserError, match="without depth, dim_head, dtype"):
        interface.cache_spec(Writer())
