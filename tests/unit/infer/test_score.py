"""The score of a text, against whole logits, whatever its length."""

import math

import jax
import numpy as np
import pytest
from tiny_training import BOS, MODEL, VOCABULARY

from palmscale.infer.score import score, windows
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


def lm_eval_windows(ids, prefix, most):
    """Disjoint (context, targets) of lm-eval 0.4's rolling log-likelihood with a context of 1."""
    first = min(most, len(ids))
    found = [([prefix, *ids[: first - 1]], ids[:first])]
    done = first
    while done < len(ids):
        end = done + min(len(ids) - done, most)
        found.append((ids[end - most - 1 : end - 1], ids[done:end]))
        done = end
    return [(seen[: len(seen) - len(targets) + 1], targets) for seen, targets in found]


@pytest.mark.parametrize("length", [1, 6, 7, 8, 14, 20, 21])
def test_the_windows_are_those_of_rolling_likelihood(length):
    row = list(range(length + 1))
    found = [
        (row[start : first + 1], row[first + 1 : end + 1])
        for start, first, end in windows(length, 7)
    ]
    assert found == lm_eval_windows(row[1:], row[0], 7)


def test_a_text_longer_than_the_context_is_scored_in_windows(params):
    ids = np.random.default_rng(0).integers(0, VOCABULARY, 20).astype(np.int32)
    row = np.concatenate([[BOS], ids]).astype(np.int32)
    shared = dict(model=MODEL, params=params, text_bytes=20)
    found = score(row=row, context_length=8, **shared)
    assert len(found.log_probabilities) == 20
    for start, end, scored in ((0, 8, 8), (8, 16, 8), (12, 20, 4)):
        alone = score(row=row[start : end + 1], **shared).log_probabilities[-scored:]
        np.testing.assert_allclose(found.log_probabilities[end - scored : end], alone, atol=1e-5)
    whole = score(row=row, **shared).log_probabilities
    np.testing.assert_array_equal(
        score(row=row, context_length=20, **shared).log_probabilities, whole
    )
