"""Beam search finds the likeliest continuations: all of them where they fit, never below greedy."""

import itertools

import jax
import numpy as np
import pytest
from eight_devices import facts_on_eight_devices

from palmscale import PaLM
from palmscale.errors import UserError
from palmscale.infer.beam import beam_search
from palmscale.infer.partition import generation_layout, placed
from palmscale.infer.weights import decoding_form
from palmscale.partition.rules import layout_rules
from palmscale.partition.shardings import unbox
from palmscale.train.state import abstract_params

# 9 stored rows, of which 4 are tokens: the others must never be found.
MODEL = PaLM(num_tokens=4, dim=16, depth=2, heads=2, dim_head=8, padded_tokens=9, ff_mult=2)
STOP = frozenset({3})
FORWARD = jax.jit(MODEL.apply)


WIDE = MODEL.clone(num_tokens=64, padded_tokens=64)


def drawn_params(seed, model=MODEL):
    """Large kernels, so that the next token depends on the context."""
    random = np.random.default_rng(seed)
    draw = lambda leaf: (0.7 * random.normal(size=leaf.shape)).astype("f4")  # noqa: E731
    return jax.tree.map(draw, unbox(abstract_params(model)))


PARAMS = [drawn_params(seed) for seed in range(4)]
PROMPTS = [np.array(ids, np.int32) for ids in ([0], [0, 1, 1, 2], [0, 2, 1, 1, 2])]
CASES = list(itertools.product(PARAMS, PROMPTS))


def search(params, prompt, model=MODEL, **more):
    arguments = {"beams": 4, "max_tokens": 6, "stop_ids": STOP} | more
    return beam_search(model=model, variables={"params": params}, prompt=prompt, **arguments)


def next_log_probabilities(params, prompt, tokens):
    """float64 [4], of the full forward pass over a row of one length."""
    row = np.zeros(16, np.int32)
    text = [*prompt.tolist(), *tokens]
    row[: len(text)] = text
    logits_V = np.float64(FORWARD({"params": params}, row[None])[0, len(text) - 1, :4])
    return logits_V - np.log(np.exp(logits_V).sum())


def greedy(params, prompt, max_tokens=6):
    """The greedy tokens, to the stop id, and their log-probability."""
    tokens, total = (), 0.0
    while len(tokens) < max_tokens and tokens[-1:] != (3,):
        log_p_V = next_log_probabilities(params, prompt, tokens)
        tokens, total = (*tokens, int(log_p_V.argmax())), total + log_p_V.max()
    return tokens, total


def every_continuation(params, prompt, max_tokens, stop_ids, tokens=(), total=0.0):
    """Yields all (tokens, log-probability) that end with a stop id or at max_tokens."""
    if len(tokens) == max_tokens or (tokens and tokens[-1] in stop_ids):
        yield tokens, total
        return
    log_p_V = next_log_probabilities(params, prompt, tokens)
    for token_id, log_p in enumerate(log_p_V.tolist()):
        longer = (*tokens, token_id)
        yield from every_continuation(params, prompt, max_tokens, stop_ids, longer, total + log_p)


def penalized(tokens, log_probability, length_penalty):
    return log_probability / ((5 + len(tokens)) / 6) ** length_penalty


def test_one_beam_is_greedy():
    ends = set()
    for params, prompt in CASES:
        (beam,) = search(params, prompt, beams=1)
        tokens, log_probability = greedy(params, prompt)
        assert beam.tokens == tokens
        np.testing.assert_allclose(beam.log_probability, log_probability, atol=1e-4)
        ends.add(tokens[-1] == 3)
    assert ends == {True, False}  # by a stop id, and by max_tokens


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 2.0])
def test_four_beams_score_at_least_greedy(length_penalty):
    better = 0
    for params, prompt in CASES:
        best = search(params, prompt, length_penalty=length_penalty)[0]
        of_greedy = penalized(*greedy(params, prompt), length_penalty)
        assert best.score >= of_greedy - 1e-4
        better += best.score > of_greedy + 1e-4
    assert better > 0


@pytest.mark.parametrize("seed", [1, 4, 9])
def test_four_beams_score_at_least_greedy_where_the_likeliest_alone_would_not(seed):
    """Here the greedy continuation is not among the four likeliest all the time."""
    arguments = {"max_tokens": 10, "stop_ids": (), "model": WIDE}
    params = drawn_params(seed, WIDE)
    best, *_ = search(params, PROMPTS[1], **arguments)
    (of_greedy,) = search(params, PROMPTS[1], **arguments, beams=1)
    assert best.score >= of_greedy.score - 1e-4


@pytest.mark.parametrize("length_penalty", [0.0, 0.6])
def test_beams_for_all_equal_an_exhaustive_search(length_penalty):
    for params, prompt in CASES[::5]:
        for stop_ids in (), STOP:
            found = search(
                params,
                prompt,
                beams=64,
                max_tokens=3,
                length_penalty=length_penalty,
                stop_ids=stop_ids,
            )
            wanted = sorted(
                every_continuation(params, prompt, 3, stop_ids),
                key=lambda pair: -penalized(*pair, length_penalty),
            )
            assert len(found) == len(wanted) == (40 if stop_ids else 64)
            assert found[0].tokens == wanted[0][0]
            assert {beam.tokens for beam in found} == {tokens for tokens, _ in wanted}
            scores = [penalized(*pair, length_penalty) for pair in wanted]
            np.testing.assert_allclose([beam.score for beam in found], scores, atol=1e-4)


def test_four_beams_of_a_vocabulary_of_four_equal_an_exhaustive_search_over_two_tokens():
    for params, prompt in CASES:
        found = search(params, prompt, beams=4, max_tokens=2, stop_ids=())
        wanted = sorted(every_continuation(params, prompt, 2, ()), key=lambda pair: -pair[1])[:4]
        assert [beam.tokens for beam in found] == [tokens for tokens, _ in wanted]


def test_beams_are_sorted_differ_and_end_once():
    for params, prompt in CASES:
        found = search(params, prompt)
        assert 1 <= len(found) <= 4 and len({beam.tokens for beam in found}) == len(found)
        assert [b.score for b in found] == sorted((b.score for b in found), reverse=True)
        for beam in found:
            assert set(beam.tokens[:-1]) <= {0, 1, 2} and 0 <= beam.tokens[-1] <= 3
            assert len(beam.tokens) == 6 or beam.tokens[-1] == 3
            assert beam.score == penalized(beam.tokens, beam.log_probability, 0.6)


def test_weights_apart_by_layer_find_the_same():
    params, prompt = CASES[1]
    model, variables = decoding_form(MODEL, params, apart=True)
    apart = beam_search(
        model=model, variables=variables, prompt=prompt, beams=4, max_tokens=6, stop_ids=STOP
    )
    stacked = search(params, prompt)
    assert [beam.tokens for beam in apart] == [beam.tokens for beam in stacked]
    np.testing.assert_allclose(
        [beam.score for beam in apart], [beam.score for beam in stacked], atol=1e-5
    )


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"beams": 0}, "beams=0 must be at least 1"),
        ({"length_penalty": -1.0}, "length_penalty=-1.0 must be 0 or more"),
        ({"length_penalty": float("nan")}, "length_penalty=nan"),
        ({"max_tokens": -1}, "max_tokens=-1"),
        ({"prompt": np.zeros(0, np.int32)}, "the prompt has no token"),
    ],
    ids=str,
)
def test_values_out_of_range_are_the_users_mistake(fields, message):
    with pytest.raises(UserError, match=message):
        search(**{"params": PARAMS[0], "prompt": PROMPTS[0]} | fields)


def mesh_facts():
    """Run with eight devices: three beams over a mesh that does not divide them."""
    params = drawn_params(1, WIDE)
    found = search(params, PROMPTS[1], WIDE, beams=3)
    boxed = abstract_params(WIDE)
    layout = generation_layout(WIDE, boxed, trained_mesh={}, trained_rules=layout_rules("2d"))
    on_mesh = jax.tree.map(
        lambda a, s: jax.device_put(a, s.sharding), params, placed(boxed, layout)
    )
    found_on_mesh = search(on_mesh, PROMPTS[1], WIDE, beams=3, layout=layout)
    return [[(b.tokens, b.score) for b in beams] for beams in (found, found_on_mesh)]


def test_beams_are_the_same_on_a_mesh():
    one, mesh = facts_on_eight_devices(mesh_facts)
    assert [tokens for tokens, _ in one] == [tokens for tokens, _ in mesh]
    np.testing.assert_allclose([s for _, s in one], [s for _, s in mesh], atol=1e-5)
