"""Log-likelihoods in batches are those of `score`, whatever the lengths, the order and the form."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from palmscale import PaLM
from palmscale.errors import UserError
from palmscale.infer import likelihoods as tested
from palmscale.infer.likelihoods import Likelihood, Pair, likelihoods
from palmscale.infer.score import score
from palmscale.infer.weights import decoding_form
from palmscale.partition.shardings import unbox
from palmscale.train.state import abstract_params

MODEL = PaLM(num_tokens=29, dim=16, depth=2, heads=2, dim_head=8, padded_tokens=37, ff_mult=2)
CHANCE = np.random.default_rng(0)


class Plain(nn.Module):
    """PaLM by way of the interface of a user's own module: no cache."""

    inner: PaLM

    def setup(self):
        self.num_tokens = self.inner.num_tokens

    def hidden(self, tokens_BL):
        return self.inner.hidden(tokens_BL)

    def unembed(self, x_BLD):
        return self.inner.unembed(x_BLD)


class OneLength(Plain):
    """The same with a cache of one length for all sequences, whose last writes are clamped."""

    def extend(self, tokens_BL, cache):
        assert cache.length.ndim == 0
        return self.inner.extend(tokens_BL, cache)

    @nn.nowrap
    def cache_spec(self):
        return dataclasses.replace(self.inner.cache_spec(), ragged=False)


@pytest.fixture(scope="module")
def params():
    draw = lambda leaf: jnp.asarray(0.5 * CHANCE.normal(size=leaf.shape), "float32")  # noqa: E731
    return jax.tree.map(draw, unbox(abstract_params(MODEL)))


def ids(length):
    return CHANCE.integers(0, MODEL.num_tokens, length).tolist()


def pairs():
    """Questions of one to four choices, contexts of 1 to 200 tokens, in no order."""
    found = [
        Pair([0, *context], ids(length))
        for context, lengths in (
            (ids(30), (3, 17, 1, 40)),
            ([], (150, 1)),
            (ids(199), (2, 2)),
            (ids(127), (1,)),
            (ids(128), (129, 0)),
            *((ids(n), (n + 1,)) for n in range(1, 12)),
        )
        for length in lengths
    ]
    return [found[n] for n in CHANCE.permutation(len(found))]


def told_by_score(params, pair):
    row = np.array([*pair.context, *pair.continuation], np.int32)
    said = score(model=MODEL, params=params, row=row, text_bytes=1)
    return said.log_probabilities[len(pair.context) - 1 :].sum(dtype=np.float64)


FORMS = {
    "stacked": lambda params: decoding_form(MODEL, params),
    "apart": lambda params: decoding_form(MODEL, params, apart=True),
    "a module without a cache": lambda params: (Plain(inner=MODEL), {"params": {"inner": params}}),
    "a module with one length": lambda params: (
        OneLength(inner=MODEL),
        {"params": {"inner": params}},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_they_are_the_sums_of_score(params, form):
    model, variables = FORMS[form](params)
    asked = pairs()
    found = likelihoods(model=model, variables=variables, pairs=asked, sequences=4)
    expected = [told_by_score(params, pair) for pair in asked]
    error = np.abs([one.log_probability for one in found] - np.array(expected))
    lengths = np.array([max(1, len(pair.continuation)) for pair in asked])
    assert (error / lengths).max() < 1e-5 and error.max() < 1e-4


def test_those_of_quantized_weights_are_the_sums_of_score(params):
    quantized = decoding_form(MODEL, params, quantize="int8")[1]["decoding"]
    model, variables = decoding_form(MODEL, quantized, apart=True)
    asked = pairs()[:6]
    found = likelihoods(model=model, variables=variables, pairs=asked)
    expected = [told_by_score(quantized, pair) for pair in asked]
    np.testing.assert_allclose([one.log_probability for one in found], expected, atol=1e-4)


@pytest.mark.parametrize("form", ["apart", "a module without a cache"])
def test_a_continuation_is_greedy_if_each_of_its_tokens_is_the_likeliest(params, form):
    model, variables = FORMS[form](params)
    row = [0, 3, 5]
    for _ in range(5):
        padded = np.zeros((1, 16), np.int32)
        padded[0, : len(row)] = row
        logits = MODEL.apply({"params": params}, padded)[0, len(row) - 1]
        row.append(int(jnp.argmax(logits)))
    greedy, other = row[3:], [*row[3:7], (row[7] + 1) % MODEL.num_tokens]
    asked = [Pair(row[:3], other), Pair(row[:3], greedy), Pair(row[:3], [])]
    found = likelihoods(model=model, variables=variables, pairs=asked)
    assert [one.is_greedy for one in found] == [False, True, True]
    assert found[2] == Likelihood(0.0, True)


@pytest.fixture
def computed(monkeypatch):
    """The positions that each program computes, of all sequences together."""
    sizes, advance = [], tested._advance

    def counting(model, variables, cache, tokens_BL, targets_BL):
        sizes.append(tokens_BL.size)
        return advance(model, variables, cache, tokens_BL, targets_BL)

    monkeypatch.setattr(tested, "_advance", counting)
    return sizes


def test_a_context_that_several_share_is_read_once(params, computed):
    model, variables = FORMS["apart"](params)
    context = [0, *ids(200)]
    likelihoods(model=model, variables=variables, pairs=[Pair(context, ids(2)) for _ in range(4)])
    assert computed == [128, 128, 16, 16, 16, 16]  # 200 positions of the context, then the choices


def test_texts_without_a_context_go_side_by_side(params, computed):
    model, variables = FORMS["apart"](params)
    likelihoods(model=model, variables=variables, pairs=[Pair([0], ids(9)) for _ in range(16)])
    assert computed == [16 * 16]


def test_there_are_few_programs_for_many_lengths(params):
    model, variables = FORMS["stacked"](params)
    before = tested._advance._cache_size()
    asked = [Pair([0, *ids(n)], ids(1 + n % 50)) for n in range(0, 250, 7)]
    likelihoods(model=model, variables=variables, pairs=asked)
    assert tested._advance._cache_size() - before <= 8


def test_nothing_asked_is_nothing_told(params):
    model, variables = FORMS["stacked"](params)
    assert likelihoods(model=model, variables=variables, pairs=[]) == []


def test_a_context_needs_a_token(params):
    model, variables = FORMS["stacked"](params)
    with pytest.raises(UserError, match="a context has no token.*bos id"):
        likelihoods(model=model, variables=variables, pairs=[Pair([], [1])])
