"""From the body of a completion request to the sequences that an engine decodes."""

import fake_engine
import numpy as np
import pytest

from palmscale.serve.body import CompletionBody
from palmscale.serve.limits import Limits
from palmscale.serve.protocol import DEFAULT_MAX_TOKENS, sequences
from palmscale.serve.refusal import Refusal

SERVED = fake_engine.served(slots=4, context_length=32)
BOS, EOD = SERVED.vocabulary.bos_id, SERVED.vocabulary.eod_id


def asked(**fields):
    body = CompletionBody(**{"prompt": "ab"} | fields)
    return sequences(body, SERVED, Limits(waiting_sequences=4))


def refusal(**fields):
    with pytest.raises(Refusal) as raised:
        asked(**fields)
    return raised.value


def test_a_text_follows_bos_and_a_list_of_ids_gets_it_where_it_lacks_it():
    for prompt, added in (("ab", 1), ([100, 101], 1), ([BOS, 100, 101], 0)):
        (one,) = asked(prompt=[prompt])
        assert one.ids[0] == BOS and len(one.ids) == 3 and one.added_bos == added
        assert one.ids.dtype == np.int32
    assert asked(prompt=[BOS, 100])[0].prompt_tokens == 2
    assert asked(prompt=[100])[0].prompt_tokens == 1


def test_each_prompt_is_asked_for_n_times():
    requests = [one.request for one in asked(prompt=["a", "b"], n=3, seed=7)]
    assert [int(request.prompt[1]) for request in requests] == [100] * 3 + [101] * 3
    seeds = [request.seed for request in requests]
    assert seeds[0] == seeds[3] == 7 and len(set(seeds)) == 3 and seeds[:3] == seeds[3:]


def test_without_a_seed_every_request_has_its_own():
    assert asked()[0].request.seed != asked()[0].request.seed


def test_every_sampling_field_reaches_the_request():
    given = {
        "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "repetition_penalty": 1.5,
        "presence_penalty": 0.5, "frequency_penalty": -0.5,
    }  # fmt: skip
    sampling = asked(**given, logit_bias={"5": -100})[0].request.sampling
    assert {name: getattr(sampling, name) for name in given} == given
    assert sampling.logit_bias == ((5, -100.0),)
    assert asked(top_k=-1)[0].request.sampling.top_k is None


def test_the_end_of_a_document_stops_unless_it_is_ignored():
    assert asked()[0].request.stop_ids == {EOD}
    assert asked(ignore_eos=True, min_tokens=3)[0].request.stop_ids == frozenset()
    assert asked(min_tokens=3)[0].request.min_tokens == 3


def test_log_probabilities_are_a_number_or_true():
    for value, top in ((None, None), (False, None), (0, 0), (True, 1), (5, 5)):
        assert asked(logprobs=value)[0].request.top_log_probabilities == top
    assert asked(logprobs=1)[0].request.score_from is None
    assert asked(logprobs=1, echo=True)[0].request.score_from == 1
    assert asked(prompt="", logprobs=1, echo=True)[0].request.score_from is None


def test_the_default_of_max_tokens_fits_what_the_prompt_leaves():
    assert asked()[0].request.max_tokens == DEFAULT_MAX_TOKENS
    assert asked(prompt="a" * 26)[0].request.max_tokens == 5
    assert asked(prompt="a" * 31, max_tokens=0, echo=True)[0].request.max_tokens == 0


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 30}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"prompt": "a" * 32}, "prompt"),
        ({"prompt": [1000]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [10**30]}, "prompt"),
        ({"n": 9}, "n"),
        ({"prompt": ["a"] * 9}, "prompt"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": 2.0}, "min_p"),
        ({"presence_penalty": 3.0}, "presence_penalty"),
        ({"frequency_penalty": 3.0}, "frequency_penalty"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"logit_bias": {"1000": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logprobs": 21}, "logprobs"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_what_cannot_be_had_names_its_field(fields, param):
    refused = refusal(**fields)
    assert (refused.status, refused.param) == (400, param) and "\n" not in refused.message


def test_another_model_does_not_exist():
    assert asked(model="tiny")
    refused = refusal(model="gpt-4")
    assert (refused.status, refused.param, refused.code) == (404, "model", "model_not_found")
