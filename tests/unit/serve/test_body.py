"""The body of a completion request: its fields, their types, and an error that names the field."""

import json

import pytest

from palmscale.serve.body import CompletionBody, DetokenizeBody, parse
from palmscale.serve.refusal import Refusal


def parsed(**fields):
    return parse(CompletionBody, json.dumps(fields).encode())


def refusal(content, kind=CompletionBody):
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    with pytest.raises(Refusal) as raised:
        parse(kind, content)
    assert raised.value.status == 400
    return raised.value


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]),
        ("", [""]),
        ([5, 6], [[5, 6]]),
        (["a", "b"], ["a", "b"]),
        ([[5], [6, 7]], [[5], [6, 7]]),
        (["a", [5]], ["a", [5]]),
    ],
)
def test_a_prompt_is_a_text_or_ids_or_a_list_of_either(prompt, prompts):
    assert parsed(prompt=prompt).prompt == prompts


@pytest.mark.parametrize("prompt", [[], [[]], None, 5, [True], [[1.5]], {"a": 1}, [None], ["a", 5]])
def test_no_other_prompt_is_taken(prompt):
    assert refusal({"prompt": prompt}).param == "prompt"


def test_a_field_that_is_null_has_its_default():
    names = set(CompletionBody.model_fields) - {"prompt"}
    assert parsed(prompt="a", **dict.fromkeys(names)) == parsed(prompt="a")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", "5"), ("max_tokens", 1.5), ("max_tokens", True), ("n", 0), ("n", -1),
        ("temperature", "hot"), ("temperature", [1]), ("top_p", {}), ("stream", "yes"),
        ("stream", 1), ("echo", 2), ("logprobs", -1), ("logprobs", 1.5), ("stop", 5),
        ("stop", [""]), ("stop", [5]), ("seed", "x"), ("seed", 2**64), ("logit_bias", [1]),
        ("logit_bias", {"x": 1}), ("logit_bias", {"5": "1"}), ("logit_bias", {"5": True}),
        ("logit_bias", {"-5": 1}), ("ignore_eos", 0), ("min_tokens", -1), ("model", 5),
        ("stream_options", True), ("stream_options", {"x": 1}), ("guided_json", 5),
        ("guided_regex", {}), ("response_format", "json"), ("min_p", "0"), ("top_k", 0.5),
    ],
)  # fmt: skip
def test_a_wrong_value_names_its_field(field, value):
    wrong = refusal({"prompt": "a", field: value})
    assert wrong.param == field and wrong.message.count("\n") == 0


def test_a_mistyped_field_is_named_with_the_nearest():
    wrong = refusal({"prompt": "a", "temprature": 1})
    assert wrong.param == "temprature" and wrong.message.endswith("did you mean temperature?")


def test_a_missing_prompt_is_named():
    assert refusal({"max_tokens": 1}).message == "prompt is missing; it is required."


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b"[1]", b"null", b"5", b'"a"', b'{"prompt": "\\ud800"}', b"[" * 100_000]
    + [b'{"prompt": "a", "temperature": NaN}', b'{"prompt": "a", "temperature": 1e999}']
    + [b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}"],
)
def test_what_is_no_json_object_is_refused_in_one_line(content):
    assert "\n" not in refusal(content).message


def test_a_long_wrong_value_is_cut():
    assert len(refusal({"prompt": "a", "stop": [5] * 10_000}).message) < 300


def test_ids_of_other_types_are_refused():
    assert refusal({"tokens": ["a"]}, DetokenizeBody).param == "tokens"
