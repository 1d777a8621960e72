import jax
import jax.numpy as jnp
import pytest

from palmscale import PaLM
from palmscale.errors import UserError
from palmscale.model.sizes import count_parameters, padded_tokens, training_flops_per_token

MODEL = PaLM(dim=16, num_tokens=30, padded_tokens=32, depth=2, heads=2, dim_head=8)


def test_the_papers_count_leaves_out_norms_and_padding():
    boxed = jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    counts = count_parameters(boxed, MODEL)
    layer = 16 * 2 * 8 + 2 * 16 * 8 + 2 * 8 * 16 + 3 * 16 * 64
    assert counts.model == 2 * layer + 30 * 16
    assert counts.without_norms == counts.model + 2 * 16
    assert counts.stored == counts.without_norms + 3 * 16


def test_flops_are_six_a_parameter_and_those_of_attention():
    assert training_flops_per_token(MODEL, 100, 10) == (600, 12 * 2 * 2 * 8 * 10)


def test_a_frozen_parameter_counts_four():
    weights, _ = training_flops_per_token(MODEL, 100, 10, trained=30)
    assert weights == 6 * 30 + 4 * 70


def test_a_table_is_padded_to_the_next_multiple():
    assert padded_tokens(num_tokens=256_000, multiple=384) == 256_128
    assert padded_tokens(num_tokens=256_000, multiple=12_288) == 258_048
    assert padded_tokens(num_tokens=32, multiple=16) == 32
    with pytest.raises(UserError, match="padded_tokens.num_tokens=32 and padded_tokens.multiple=0"):
        padded_tokens(num_tokens=32, multiple=0)
    with pytest.raises(UserError, match="padded_tokens.num_tokens=0"):
        padded_tokens(num_tokens=0, multiple=16)
