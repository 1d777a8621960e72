"""An engine's tokens are those of the full forward pass, whatever else it has to do."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from palmscale import PaLM
from palmscale.errors import UserError
from palmscale.infer import programs
from palmscale.infer.engine import Engine
from palmscale.infer.request import Request
from palmscale.infer.sampling import Sampling
from palmscale.infer.weights import decoding_form
from palmscale.partition.shardings import unbox
from palmscale.train.state import abstract_params

# 37 stored rows, of which 29 are tokens: the others must never be drawn.
MODEL = PaLM(num_tokens=29, dim=16, depth=2, heads=2, dim_head=8, padded_tokens=37, ff_mult=2)
GREEDY, WARM = Sampling(temperature=0.0), Sampling(temperature=1.5)
CHANCE = np.random.default_rng(0)
CONTEXT, CHUNK, SLOTS = 64, 16, 4


class Plain(nn.Module):
    """PaLM by way of the interface of a user's own module: one length for all sequences."""

    inner: PaLM

    def setup(self):
        self.num_tokens = self.inner.num_tokens

    def extend(self, tokens_BL, cache):
        assert cache.length.ndim == 0
        return self.inner.extend(tokens_BL, cache)

    def unembed(self, x_BLD):
        return self.inner.unembed(x_BLD)

    @nn.nowrap
    def cache_spec(self):
        return dataclasses.replace(self.inner.cache_spec(), ragged=False)


@pytest.fixture(scope="module")
def params():
    # Large kernels, so that the next token hangs on the context and not on the last token alone.
    draw = lambda leaf: jnp.asarray(0.5 * CHANCE.normal(size=leaf.shape), "float32")  # noqa: E731
    return jax.tree.map(draw, unbox(abstract_params(MODEL)))


def prompt(length):
    return CHANCE.integers(0, MODEL.num_tokens, length).astype(np.int32)


def engine(params, form="stacked", **settings):
    settings = dict(slots=SLOTS, context_length=CONTEXT, prefill_chunk=CHUNK) | settings
    if form == "own":
        own = {"params": {"inner": params}}
        return Engine(model=Plain(inner=MODEL), variables=own, **settings)
    model, variables = decoding_form(MODEL, params, apart=form == "apart")
    return Engine(model=model, variables=variables, **settings)


def answers(engine, requests):
    """Returns the tokens of each request, what was said of its prompt, and how it ended."""
    tokens = [[] for _ in requests]
    prompts, ends = [None] * len(requests), [None] * len(requests)
    for number, output in engine.run(requests):
        assert ends[number] is None
        tokens[number] += output.tokens
        if output.prompt is not None:
            prompts[number] = output.prompt
        ends[number] = output.finished
    return tokens, prompts, ends


def ids(tokens):
    return [token.id for token in tokens]


_whole = jax.jit(lambda params, row_BL: jax.nn.log_softmax(MODEL.apply({"params": params}, row_BL)))


def log_probabilities(params, row):
    """Of the token after each of `row`, by the full forward pass."""
    padded = np.zeros((1, CONTEXT), np.int32)
    padded[0, : len(row)] = row
    return np.asarray(_whole(params, padded))[0, : len(row)]


def check_equals_full_forward(params, request, tokens, said_of_prompt):
    row = np.concatenate([request.prompt, ids(tokens)]).astype(np.int32)
    expected_LV = log_probabilities(params, row)
    first = len(request.prompt)
    told = [*(said_of_prompt or ()), *tokens]
    for at, token in enumerate(told, start=len(row) - len(told)):
        assert token.id == row[at]
        assert abs(token.log_probability - expected_LV[at - 1, token.id]) < 1e-5
        for top_id, log_probability in token.top:
            assert abs(log_probability - expected_LV[at - 1, top_id]) < 1e-5
    np.testing.assert_array_equal(ids(tokens), expected_LV[first - 1 : -1].argmax(-1))


def mixed_requests():
    sizes = ((1, 5), (3, 10), (40, 24), (33, 0), (17, 30), (5, 4), (63, 1), (16, 2), (1, 0))
    return [
        Request(
            prompt=prompt(length),
            max_tokens=most,
            sampling=GREEDY,
            top_log_probabilities=2,
            score_from=1,
        )
        for length, most in sizes
    ]


@pytest.mark.parametrize("form", ["stacked", "apart", "own"])
def test_prompts_of_all_lengths_together_equal_the_full_forward_pass(params, form):
    requests, used = mixed_requests(), engine(params, form)
    tokens, prompts, ends = answers(used, requests)
    for request, drawn, said in zip(requests, tokens, prompts, strict=True):
        assert len(drawn) == request.max_tokens and len(said) == len(request.prompt) - 1
        check_equals_full_forward(params, request, drawn, said)
    assert set(ends) == {"length"}
    assert used.free_slots == SLOTS and not used.busy


@pytest.mark.parametrize("form", ["stacked", "own"])
def test_a_prompt_takes_what_another_has_cached(params, form):
    used, shared = engine(params, form), prompt(40)
    for rest in (5, 3, 0):
        request = Request(
            prompt=np.concatenate([shared, prompt(rest)]),
            max_tokens=12,
            sampling=GREEDY,
            top_log_probabilities=1,
        )
        reused = {}
        tokens = []
        for _, output in used.run([request]):
            reused[output.request_id] = output.reused_tokens
            tokens += output.tokens
        check_equals_full_forward(params, request, tokens, None)
        assert max(reused.values()) == (0 if rest == 5 else min(40, 40 + rest - 1))
    fresh = engine(params, form, reuse_prefixes=False)
    assert all(output.reused_tokens == 0 for _, output in fresh.run([request, request]))


def test_the_second_choice_of_a_question_computes_its_own_tokens(params, monkeypatch):
    computed = []
    prefill = programs.prefill
    monkeypatch.setattr(
        programs,
        "prefill",
        lambda *args, **kw: computed.append(args[3].size) or prefill(*args, **kw),
    )
    used, question = engine(params), prompt(41)
    choices = [
        Request(
            prompt=np.concatenate([question, prompt(6)]),
            max_tokens=0,
            score_from=41,
            top_log_probabilities=1,
        )
        for _ in range(3)
    ]
    _, said, _ = answers(used, choices)
    assert computed == [16, 16, 16, 8, 8]  # 46 tokens, then 6 twice, each from the question's last
    for choice, tokens in zip(choices, said, strict=True):
        expected_LV = log_probabilities(params, choice.prompt)
        assert ids(tokens) == choice.prompt[41:].tolist()
        for at, token in enumerate(tokens, start=40):
            assert abs(token.log_probability - expected_LV[at, token.id]) < 1e-5


def test_a_seed_draws_the_same_tokens_alone_and_among_63_others(params):
    requests = [
        Request(prompt=prompt(4 + n % 9), max_tokens=8, sampling=WARM, seed=n) for n in range(64)
    ]
    together, _, _ = answers(engine(params, slots=64), requests)
    used = engine(params, slots=64)
    for request, tokens in zip(requests, together, strict=True):
        (alone,), _, _ = answers(used, [request])
        assert ids(alone) == ids(tokens)
    assert len({tuple(ids(tokens)) for tokens in together}) == len(requests)
    assert max(token.id for tokens in together for token in tokens) < MODEL.num_tokens


def test_other_prompts_of_the_same_sizes_compile_nothing(params):
    used = engine(params)
    answers(used, [Request(prompt=prompt(20), max_tokens=4, sampling=WARM)])
    functions = (programs.prefill, programs.decode, programs.insert, programs.take)
    before = [function._cache_size() for function in functions]
    more = [Request(prompt=prompt(length), max_tokens=9, sampling=WARM) for length in (21, 24, 19)]
    answers(used, more)
    assert [function._cache_size() for function in functions] == before


def test_a_long_prompt_delays_the_others_by_a_chunk_at_most(params):
    used = engine(params)
    first = used.submit(Request(prompt=prompt(2), max_tokens=20, sampling=GREEDY))
    for _ in range(3):
        used.step()
    second = used.submit(Request(prompt=prompt(50), max_tokens=1, sampling=GREEDY))
    for _ in range(4):  # 49 tokens are four chunks
        told = {output.request_id for output in used.step()}
        assert first in told
    while used.busy:
        told |= {output.request_id for output in used.step()}
    assert second in told


def test_a_stop_id_ends_a_sequence_and_is_its_last_token(params):
    request = Request(prompt=prompt(3), max_tokens=20, sampling=WARM, seed=5)
    ((*free,),), _, _ = answers(engine(params), [request])
    stop = free[6].id
    first = ids(free).index(stop)
    limited = [
        Request(prompt=request.prompt, max_tokens=20, sampling=WARM, seed=5, stop_ids={stop}),
        Request(
            prompt=request.prompt,
            max_tokens=20,
            sampling=WARM,
            seed=5,
            stop_ids={stop},
            min_tokens=9,
        ),
    ]
    tokens, _, ends = answers(engine(params), limited)
    assert ids(tokens[0]) == ids(free)[: first + 1] and ends[0] == "stop"
    assert stop not in ids(tokens[1])[:9]


def test_a_cancelled_request_says_nothing_more_and_frees_its_slot(params):
    used = engine(params, slots=2)
    requests = [
        Request(prompt=prompt(30), max_tokens=20, sampling=GREEDY, score_from=1) for _ in range(5)
    ]
    numbers = [used.submit(request) for request in requests]
    for _ in range(4):
        used.step()
    for number in numbers[:4]:
        used.cancel(number)
    used.cancel(99)
    rest = []
    while used.busy:
        rest += used.step()
    assert {output.request_id for output in rest} == {numbers[4]}
    assert used.free_slots == 2 and used.active == used.queued == 0
    tokens = [token.id for output in rest for token in output.tokens]
    expected, _, _ = answers(engine(params), [requests[4]])
    assert tokens == ids(expected[0])


@pytest.mark.parametrize("form", ["apart", "own"])
def test_foreseen_tokens_change_nothing_but_the_number_of_steps(params, form, monkeypatch):
    repeated = np.tile(prompt(5), 4)
    requests = [Request(prompt=repeated, max_tokens=40, sampling=GREEDY)]
    requests += [Request(prompt=prompt(n), max_tokens=30, sampling=GREEDY) for n in (1, 7, 20, 34)]
    expected, _, _ = answers(engine(params, form), requests)
    steps = []
    verify = programs.verify
    monkeypatch.setattr(programs, "verify", lambda *args: steps.append(1) or verify(*args))
    found, _, ends = answers(engine(params, form, speculate_tokens=4), requests)
    assert list(map(ids, found)) == list(map(ids, expected))
    assert set(ends) == {"length"} and 0 < len(steps) < 160


class Alternating:
    """Allows even ids, then odd ones."""

    def __init__(self):
        self.taken = []

    def allowed(self):
        return np.arange(29) % 2 == len(self.taken) % 2

    def accept(self, token_id):
        self.taken.append(token_id)


def test_a_guide_restricts_each_token_by_the_ones_before(params):
    guides = [Alternating(), Alternating()]
    requests = [
        Request(prompt=prompt(5), max_tokens=7, sampling=WARM, seed=n, guide=guide)
        for n, guide in enumerate(guides)
    ]
    requests.append(Request(prompt=prompt(5), max_tokens=7, sampling=WARM))
    tokens, _, _ = answers(engine(params), requests)
    for drawn in tokens[:2]:
        assert [token.id % 2 for token in drawn] == [0, 1, 0, 1, 0, 1, 0]
    assert [token.id % 2 for token in tokens[2]] != [0, 1, 0, 1, 0, 1, 0]


def test_penalties_and_biases_of_one_request_leave_the_others_as_they_are(params):
    plain = [Request(prompt=prompt(6), max_tokens=12, sampling=GREEDY) for _ in range(3)]
    expected, _, _ = answers(engine(params), plain)
    odd = [
        Request(
            prompt=plain[0].prompt,
            max_tokens=12,
            sampling=Sampling(temperature=0.0, repetition_penalty=1e6),
        ),
        Request(
            prompt=plain[1].prompt,
            max_tokens=5,
            sampling=Sampling(temperature=0.0, logit_bias=((3, 100.0),)),
        ),
    ]
    found, _, _ = answers(engine(params), [plain[0], odd[0], plain[1], odd[1], plain[2]])
    assert list(map(ids, (found[0], found[2], found[4]))) == list(map(ids, expected))
    assert ids(found[3]) == 5 * [3]
    kept = [i for i in ids(found[1]) if i in plain[0].prompt]
    assert len(set(ids(found[1]))) + len(kept) >= 12  # none twice before all have been written


class Deaf(nn.Module):
    """Offers what training needs and not what generating needs."""

    def hidden(self, tokens_BL):
        return tokens_BL


def test_what_cannot_be_answered_is_refused(params):
    used = engine(params)
    with pytest.raises(UserError, match="60 tokens and max_tokens=5.*65, and context_length is"):
        used.submit(Request(prompt=prompt(60), max_tokens=5))
    with pytest.raises(UserError, match="the prompt has the token id 29; ids are 0 to 28"):
        used.submit(Request(prompt=np.array([29]), max_tokens=1))
    with pytest.raises(UserError, match="logit_bias has the token id 30"):
        used.submit(
            Request(prompt=prompt(1), max_tokens=1, sampling=Sampling(logit_bias=((30, 1.0),)))
        )
    with pytest.raises(UserError, match="top_log_probabilities=30 must be 0 to 29"):
        used.submit(Request(prompt=prompt(1), max_tokens=1, top_log_probabilities=30))
    with pytest.raises(UserError, match="slots=0 must be at least 1"):
        engine(params, slots=0)
    with pytest.raises(UserError, match="Deaf cannot generate text: it has no `extend"):
        Engine(model=Deaf(), variables={"params": params})
    assert not used.busy
