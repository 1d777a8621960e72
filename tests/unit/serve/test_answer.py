"""The JSON of an answer to a completion request, whole or as a stream of events."""

import fake_engine
import openai
import pytest
from http_server import serving

TEXT = fake_engine.TEXT


@pytest.fixture(scope="module")
def running():
    with serving(lambda: fake_engine.served(slots=8)) as running:
        yield running


@pytest.fixture(scope="module")
def client(running):
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        yield client.completions


def streamed(client, **fields):
    """Text, log-probabilities and finish reasons by choice, and the usage, of a stream."""
    texts, tokens, reasons, usage = {}, {}, {}, None
    options = {"stream": True, "stream_options": {"include_usage": True}}
    for chunk in client.create(model="tiny", **options, **fields):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
            if choice.logprobs:
                tokens.setdefault(choice.index, []).extend(
                    zip(choice.logprobs.tokens, choice.logprobs.text_offset, strict=True)
                )
            reasons.setdefault(choice.index, []).append(choice.finish_reason)
    return texts, tokens, reasons, usage


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "a", "max_tokens": 30},
        {"prompt": ["a", "bé"], "max_tokens": 20, "n": 2},
        {"prompt": [[100, 101], [102]], "max_tokens": 20, "echo": True},
        {"prompt": "é", "max_tokens": 20, "echo": True, "logprobs": 3},
        {"prompt": "a", "max_tokens": 40, "stop": ["text"], "logprobs": 0},
        {"prompt": "a", "max_tokens": 0, "echo": True, "logprobs": 1},
        {"prompt": "", "max_tokens": 9, "echo": True, "logprobs": 1},
        {"prompt": "a", "max_tokens": 9, "echo": True, "logprobs": 1, "stop": "a"},
    ],
)
def test_a_stream_says_what_the_whole_answer_says(client, fields):
    whole = client.create(model="tiny", **fields)
    texts, tokens, reasons, usage = streamed(client, **fields)
    assert texts == {choice.index: choice.text for choice in whole.choices}
    assert usage == whole.usage
    for choice in whole.choices:
        assert reasons[choice.index][-1] == choice.finish_reason
        assert set(reasons[choice.index][:-1]) <= {None}
        if choice.logprobs:
            told = list(zip(choice.logprobs.tokens, choice.logprobs.text_offset, strict=True))
            assert tokens[choice.index] == told


def test_log_probabilities_as_evaluation_harnesses_read_them(client):
    prompt = [0, *fake_engine.VOCABULARY.encode("abc").tolist()]
    answer = client.create(
        model="tiny", prompt=[prompt], max_tokens=1, echo=True, logprobs=1, temperature=0
    )
    told = answer.choices[0].logprobs
    assert len(told.tokens) == len(prompt) + 1  # one more was drawn
    assert told.token_logprobs[0] is None and told.top_logprobs[0] is None
    assert all(value == -1.5 for value in told.token_logprobs[1:])
    for token, top in zip(told.tokens[1:], told.top_logprobs[1:], strict=True):
        assert top[token] == -1.5 or max(top, key=top.get) == token


def test_a_prompt_counts_once_however_many_samples_are_drawn(client):
    usage = client.create(model="tiny", prompt=["ab", "abc"], n=3, max_tokens=4).usage
    assert usage.prompt_tokens == 5 and usage.completion_tokens == 24
    assert usage.total_tokens == 29
