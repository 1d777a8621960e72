"""Text that is asked for and written: up to the first end, and the same whatever is beside it."""

import json
import re

import jax
import numpy as np
import pytest
from small_run import MODEL

from palmscale.data.vocabulary import ByteVocabulary
from palmscale.errors import UserError
from palmscale.infer.continuation import TextRequest, context_length_of, continued
from palmscale.infer.engine import Engine
from palmscale.infer.request import Output, Token
from palmscale.infer.weights import decoding_form
from palmscale.partition.shardings import unbox

VOCABULARY = ByteVocabulary()


@pytest.fixture(scope="module")
def form():
    params = unbox(jax.jit(MODEL.init)(jax.random.key(0), np.zeros((1, 1), np.int32))["params"])
    return dict(zip(("model", "variables"), decoding_form(MODEL, params), strict=True))


@pytest.fixture(scope="module")
def engine(form):
    return Engine(**form, slots=4, context_length=64)


def texts(engine, requests):
    found = [""] * len(requests)
    for number, piece in continued(engine, VOCABULARY, requests):
        found[number] += piece.text
    return found


class Scripted:
    """An engine that draws these tokens, in outputs of so many."""

    slots, queued = 1, 0

    def __init__(self, tokens, size=1, finished="length"):
        outputs = [tokens[i : i + size] for i in range(0, len(tokens), size)]
        self.outputs = [
            Output(
                request_id=0,
                tokens=[Token(id=int(i)) for i in ids],
                finished=finished if n == len(outputs) - 1 else None,
            )
            for n, ids in enumerate(outputs)
        ]
        self.cancelled = []

    def submit(self, request):
        self.request = request
        return 0

    def step(self):
        return [self.outputs.pop(0)]

    def cancel(self, request_id):
        self.cancelled.append(request_id)


def pieces_of(scripted, **fields):
    return [piece for _, piece in continued(scripted, VOCABULARY, [TextRequest(**fields)])]


@pytest.mark.parametrize("size", [1, 3, 20])
def test_a_stop_string_ends_the_text_and_its_request(size):
    scripted = Scripted(VOCABULARY.encode("one, two; three"), size)
    pieces = pieces_of(scripted, prompt="x", stop=("wo;", "zzz"))
    assert "".join(piece.text for piece in pieces) == "one, t"
    assert sum(len(piece.tokens) for piece in pieces) == len("one, two;")
    assert pieces[-1].finish_reason == "stop" and scripted.cancelled == [0]


def test_no_character_is_broken_and_what_is_held_back_comes_at_the_end():
    pieces = pieces_of(Scripted(VOCABULARY.encode("aü€🙂b wo")), stop="wo;")
    assert [piece.text for piece in pieces if piece.text] == ["a", "ü", "€", "🙂", "b", " ", "wo"]
    assert pieces[-1].finish_reason == "length"


def test_the_end_of_the_document_is_a_token_and_no_text():
    ids = [*VOCABULARY.encode("ab"), VOCABULARY.eod_id]
    scripted = Scripted(ids, finished="stop")
    pieces = pieces_of(scripted)
    assert "".join(piece.text for piece in pieces) == "ab"
    assert [token.id for piece in pieces for token in piece.tokens] == ids
    assert scripted.request.stop_ids == {VOCABULARY.eod_id}


def test_a_text_may_go_on_after_the_end_of_the_document():
    scripted = Scripted([*VOCABULARY.encode("a"), VOCABULARY.eod_id, *VOCABULARY.encode("b")])
    assert "".join(piece.text for piece in pieces_of(scripted, ignore_eos=True)) == "ab"
    assert scripted.request.stop_ids == frozenset()


def test_a_text_is_the_same_alone_and_beside_others(engine):
    requests = [
        TextRequest(prompt="ab" * n, max_tokens=9, seed=n, temperature=1.0) for n in range(9)
    ]
    alone = [texts(engine, [request])[0] for request in requests]
    assert texts(engine, requests) == alone and len(set(alone)) == 9
    assert texts(engine, requests[::-1]) == alone[::-1]


def test_prompt_lookup_changes_the_text_of_none_of_200_prompts(form):
    chance = np.random.default_rng(0)
    requests = []
    for number in range(200):
        words = chance.choice(["def ", "ab", "return ", "x = ", "naïve "], 1 + number % 4)
        prompt = "".join(words) * (1 + number % 3)
        requests.append(TextRequest(prompt=prompt, max_tokens=12, temperature=0))
    shared = form | dict(slots=16, context_length=128)
    plain = texts(Engine(**shared), requests)
    assert texts(Engine(**shared, speculate_tokens=4), requests) == plain


def test_who_stops_listening_frees_the_slots(engine):
    pieces = continued(engine, VOCABULARY, [TextRequest(prompt="ab", max_tokens=40)] * 9)
    next(pieces)
    pieces.close()
    assert not engine.active and not engine.queued and engine.free_slots == 4


def test_samples_have_seeds_of_their_own(engine):
    samples = TextRequest(prompt="ab", max_tokens=9, seed=5, temperature=1.0).sampled(4)
    assert samples[0].seed == 5 and len({sample.seed for sample in samples}) == 4
    assert len(set(texts(engine, samples))) == 4


def test_sampling_fields_reach_the_engine():
    request = TextRequest(min_p=0.5, repetition_penalty=2.0, logit_bias={3: -1.5}, stop="x")
    encoded = request.encoded(VOCABULARY)
    assert encoded.sampling.min_p == 0.5 and encoded.sampling.repetition_penalty == 2.0
    assert encoded.sampling.logit_bias == ((3, -1.5),) and request.stop == ("x",)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_tokens": 0}, "max_tokens=0 must be at least 1"),
        ({"min_tokens": -1}, "min_tokens=-1"),
        ({"temperature": -1}, "temperature=-1"),
        ({"top_logprobs": 101}, "top_logprobs=101 must be 0 to 100"),
        ({"stop": ["a", ""]}, "stop has an empty string"),
        ({"seed": 2**64}, "seed=18446744073709551616"),
        ({"logit_bias": {1: 1000}}, "logit_bias=1000"),
    ],
    ids=str,
)
def test_a_value_out_of_range_is_named(fields, message):
    with pytest.raises(UserError, match=message):
        TextRequest(**fields)


def test_requests_share_a_context_length():
    requests = [TextRequest(prompt="a" * n, max_tokens=100) for n in (1, 100)]
    encoded = [request.encoded(VOCABULARY) for request in requests]
    assert context_length_of(encoded) == 256 and context_length_of(encoded[:1]) == 128
    assert context_length_of([]) == 128


def test_a_text_has_the_form_that_is_asked_for(engine):
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
    schema |= {"additionalProperties": False}
    requests = [TextRequest(json_schema=schema, seed=n, max_tokens=40) for n in range(4)]
    requests += [TextRequest(regex="[ab]{3,5}", seed=n, max_tokens=40) for n in range(4)]
    found = texts(engine, requests)
    assert all(json.loads(text)["a"] in (1, 2) for text in found[:4])
    assert all(re.fullmatch("[ab]{3,5}", text) for text in found[4:])


def test_a_form_that_is_not_supported_is_named():
    with pytest.raises(UserError, match="the regular expression"):
        TextRequest(regex="(").encoded(VOCABULARY)
    with pytest.raises(UserError, match="exclude one another"):
        TextRequest(regex="a", json_schema={})
