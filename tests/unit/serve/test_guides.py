"""What a client asks the form of the answer to be: a JSON schema or a regular expression."""

import pytest

from palmscale.data.vocabulary import ByteVocabulary
from palmscale.serve.body import CompletionBody
from palmscale.serve.guides import form_of, guide_of
from palmscale.serve.refusal import Refusal

BYTES = ByteVocabulary()
SCHEMA = {"type": "boolean"}


def begins(**fields):
    """The characters that an answer may begin with."""
    guide = guide_of(form_of(CompletionBody(prompt="a", **fields)), BYTES)
    allowed = guide.allowed().nonzero()[0]
    return {chr(token_id - 3) for token_id in allowed if token_id >= 3}


def test_each_field_guides():
    assert begins(guided_regex="(yes|no)") == {"y", "n"}
    assert begins(guided_json=SCHEMA) == begins(guided_json='{"type": "boolean"}') == {"t", "f"}
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    assert begins(response_format=schema) == {"t", "f"}
    assert begins(response_format={"type": "json_object"}) == {"{"}


def test_plain_text_has_no_guide():
    for fields in ({}, {"response_format": {"type": "text"}}):
        assert form_of(CompletionBody(prompt="a", **fields)) is None
    assert guide_of(None, BYTES) is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_regex": "("}, "guided_regex"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": {"type": "nothing"}}, "guided_json"),
        ({"response_format": {}}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": 5}}, "response_format"),
        ({"guided_json": {}, "guided_regex": "a"}, "guided_regex"),
    ],
)
def test_a_wrong_form_names_its_field(fields, param):
    with pytest.raises(Refusal) as raised:
        guide_of(form_of(CompletionBody(prompt="a", **fields)), BYTES)
    assert raised.value.param == param and raised.value.status == 400
    assert "\n" not in raised.value.message
