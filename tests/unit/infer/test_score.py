"""The score of a text, against whole logits, whatever its length."""

import math

import jax
import numpy as np
import pytest
from tiny_training import BOS, MODEL, VOCABULARY

from palmscale.infer.score import score
from palmscale.partition.shardings import unbox


@pytest.fixture(scope="module")
def params():
    return unbox(jax.jit(MODEL.init)(jax.random.key(0), np.zeros((1, 1), np.int32))["params"])


@pytest.mark.parametrize("length", [1, 5, 128, 129])
def test_it_is_the_log_probability_of_each_token_given_those_before(params, length):
    ids = np.random.default_rng(0).integers(0, VOCABULARY, length).astype(np.int32)
    row = np.concatenate([[BOS], ids]).astype(np.int32)
    found = score(model=MODEL, params=params, row=row, text_bytes=2 * length)
    logits_LV = np.float64(MODEL.apply({"params": params}, row[None]))[0, :-1]
    log_p_LV = logits_LV - np.log(np.exp(logits_LV).sum(-1, keepdims=True))
    np.testing.assert_allclose(found.log_probabilities, log_p_LV[np.arange(length), ids], atol=1e-5)
    bits = -found.log_probability / math.log(2)
    assert found.bits_per_byte == pytest.approx(bits / (2 * length))


def test_an_empty_text_has_no_bits_per_byte(params):
    found = score(model=MODEL, params=params, row=np.array([BOS], np.int32), text_bytes=0)
    assert found.log_probability == 0 and math.isnan(found.bits_per_byte)
