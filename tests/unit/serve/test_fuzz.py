"""Wrong bodies of every kind: the right status, OpenAI's shape, no traceback, no slot held."""

import json
import random

import fake_engine
import http_server
import pytest

from palmscale.serve.body import CompletionBody

FIELDS = [*sorted(CompletionBody.model_fields), "tokens", "add_special_tokens"]
PATHS = ("/v1/completions", "/tokenize", "/detokenize", "/v1/chat/completions")
STATUSES = {200, 400, 404, 413}
VALUES = [
    None, True, False, 0, 1, -1, 2, 16, 10**9, -(2**63), 2**64, 10**40, 0.0, 0.5, 1.5, -2.0, 1e308,
    "", "a", "é→𝄞", "\0", "x" * 3000, "(a|b)+", [], [0], [1, 2, 3], [[]], [[5], [6]], [""], ["a"],
    ["a", "b"], [None], {}, {"a": 1}, {"5": 1}, {"5": -100, "6": 1e9}, {"type": "json_object"},
    {"include_usage": True}, {"type": "json_schema", "json_schema": {"schema": {}}}, "tiny", "null",
]  # fmt: skip


def body(chance):
    """A body of some fields with values that fit or do not, sometimes broken as bytes."""
    fields = {"prompt": "ab", "max_tokens": chance.choice([1, 3, 0])}
    for _ in range(chance.randrange(4)):
        fields[chance.choice([*FIELDS, "unknown"])] = chance.choice(VALUES)
    fields.pop(chance.choice([*FIELDS, "", "", ""]), None)
    content = json.dumps(fields).encode()
    kind = chance.randrange(12)
    if kind == 0:
        content = content[: chance.randrange(len(content))]
    elif kind == 1:
        place = chance.randrange(len(content))
        content = content[:place] + bytes([chance.randrange(256)]) + content[place + 1 :]
    elif kind == 2:
        content = chance.choice([b"", b"null", b"[]", b"1e400", b"[" * 9999, b'{"prompt":NaN}'])
    return content


def fuzz(seed, count):
    engine = fake_engine.FakeEngine(slots=4, context_length=4096)
    chance, seen = random.Random(seed), set()
    with http_server.serving(lambda: fake_engine.served(engine)) as running:
        for _ in range(count):
            content = body(chance)
            path = chance.choices(PATHS, weights=(12, 1, 1, 1))[0]
            status, _, answer = running.request("POST", path, content)
            assert status in STATUSES, (status, content, answer)
            seen.add(status)
            if status != 200:
                error = answer["error"]
                assert set(error) == {"message", "type", "param", "code"}, content
                assert error["type"] == "invalid_request_error", (content, error)
                assert "Traceback" not in error["message"] and "\n" not in error["message"], content
        http_server.eventually(lambda: not engine.busy)
        assert running.complete(prompt="a", max_tokens=2)["choices"][0]["text"] == "na"
        assert not http_server_open(running)
    return seen


def http_server_open(running):
    """The sequences that the server still has open."""
    return running.server._http._dispatcher.open_sequences


def test_two_hundred_fuzzed_bodies():
    assert fuzz(seed=0, count=200) >= {200, 400, 404}


@pytest.mark.long
def test_ten_thousand_fuzzed_bodies():
    assert fuzz(seed=1, count=10_000) >= {200, 400, 404}
