"""A prompt is computed once, in chunks that fit the cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palmscale import PaLM
from palmscale.infer import programs
from palmscale.infer.request import Request
from palmscale.infer.staging import Staging
from palmscale.partition.shardings import unbox
from palmscale.train.state import abstract_params

MODEL = PaLM(num_tokens=11, dim=4, depth=1, heads=1, dim_head=4, ff_mult=2)


@pytest.fixture
def staging():
    params = jax.tree.map(lambda a: jnp.ones(a.shape), unbox(abstract_params(MODEL)))
    return Staging(MODEL, {"params": params}, 44, chunk=20, apart=False)


@pytest.fixture
def sizes(monkeypatch):
    found, prefill = [], programs.prefill

    def counted(*args, **keywords):
        found.append((int(args[2].length[0]), args[3].shape[1], args[4] is not None))
        return prefill(*args, **keywords)

    monkeypatch.setattr(programs, "prefill", counted)
    return found


def request(length, **fields):
    return Request(prompt=np.arange(length) % 11, max_tokens=1, **fields)


def computed(staging, request, cached=(), copy=None):
    reused = staging.begin(request, list(cached), copy)
    scores = []
    while not staging.is_done(request):
        assert staging.advance(request, scores) > 0
    return reused, staging.scored(request, scores)


def test_chunks_are_powers_of_two_and_never_pass_the_end(staging, sizes):
    computed(staging, request(44))
    assert sizes == [(0, 16, False), (16, 16, False), (32, 8, False), (40, 4, False)]


def test_only_chunks_with_a_token_to_score_are_scored(staging, sizes):
    _, tokens = computed(staging, request(40, score_from=17, top_log_probabilities=2))
    assert sizes == [(0, 16, False), (16, 16, True), (32, 8, True)]
    assert [token.id for token in tokens] == [n % 11 for n in range(17, 40)]
    assert all(len(token.top) == 2 for token in tokens)


def test_what_is_here_is_used_before_a_copy_is_made(staging, sizes):
    copies = []
    computed(staging, request(30))
    assert computed(staging, request(30), [0], lambda: copies.append(1))[0] == 29
    assert computed(staging, request(33), range(30), lambda: copies.append(1))[0] == 29
    assert copies == []


def test_a_copy_is_made_where_it_spares_enough(staging, sizes):
    copies = []

    def copy():
        copies.append(1)
        return jax.tree.map(jnp.copy, staging.cache)

    cached = [n % 11 for n in range(25)]
    assert computed(staging, request(10), cached, copy)[0] == 0
    assert computed(staging, request(30), cached, copy)[0] == 25
    assert copies == [1]


def test_a_token_to_score_is_computed_from_the_one_before_it(staging):
    computed(staging, request(30))
    assert staging.common(request(30, score_from=12), [n % 11 for n in range(30)]) == 11
    assert staging.common(request(30), [n % 11 for n in range(30)]) == 29
    assert staging.common(request(30), [0, 1, 5, 3]) == 2
    assert staging.common(request(1), [0]) == 0
