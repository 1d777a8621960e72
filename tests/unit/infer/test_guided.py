"""What a guide allows is what its schema or regular expression matches, and no more."""

import json
import re
import sys

import jax
import numpy as np
import pytest
import tiny_sentencepiece
import tiny_tokenizer

from palmscale.data.vocabulary import (
    ByteVocabulary,
    SentencePieceVocabulary,
    vocabulary_named,
)
from palmscale.errors import UserError
from palmscale.infer.draw import Rows, sample
from palmscale.infer.guided import Guides
from palmscale.infer.sampling import Sampling, allowed_of, row_of

B = 50
MOST_TOKENS = 300
STORED = 301  # rows of the logits: more than any vocabulary here
draw = jax.jit(sample, static_argnames=("filters", "top"))

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b→", "c d"]}, "maxItems": 3},
    },
    "required": ["name", "tags"],
    "additionalProperties": False,
}
NESTED = {
    "$defs": {
        "point": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2}
    },
    "type": "object",
    "properties": {
        "at": {"$ref": "#/$defs/point"},
        "kind": {"anyOf": [{"const": 1}, {"type": "null"}]},
    },
    "required": ["at", "kind"],
    "additionalProperties": False,
}


def is_person(value):
    assert {"name", "tags"} <= set(value) <= {"name", "age", "tags"}
    assert 1 <= len(value["name"]) <= 12
    assert 0 <= value.get("age", 0) <= 150 and isinstance(value.get("age", 0), int)
    assert len(value["tags"]) <= 3 and set(value["tags"]) <= {"a", "b→", "c d"}
    return True


def is_nested(value):
    first, second = value["at"]
    return isinstance(first, bool) and isinstance(second, bool) and value["kind"] in (1, None)


@pytest.fixture(scope="module", params=["bytes", "raw_bytes", "sentencepiece", "tokenizer"])
def vocabulary(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    if request.param in ("bytes", "raw_bytes"):
        return vocabulary_named(request.param)
    if request.param == "tokenizer":
        return vocabulary_named(tiny_tokenizer.write(folder, tiny_tokenizer.byte_level(size=300)))
    return SentencePieceVocabulary(tiny_sentencepiece.train(folder / "m"))


def written(vocabulary, guides):
    """The texts of B sequences of a random model that each follow a guide."""
    entries = [row_of(Sampling(temperature=2.0), seed) for seed in range(B)]
    names = ("temperature_B", "top_k_B", "top_p_B", "min_p_B", "key_B2")
    rows = Rows(**{name: np.stack([entry[name] for entry in entries]) for name in names})
    random = np.random.default_rng(0)
    ids, live = [[] for _ in guides], set(range(B))
    for position in range(MOST_TOKENS):
        allowed_BV = np.ones((B, STORED), bool)
        for n in live:
            allowed_BV[n] = allowed_of(guides[n].allowed(), size=STORED, withheld=frozenset())
        logits_BV = random.normal(size=(B, STORED)).astype("f4") * 3
        position_B = np.full(B, position, np.int32)
        rows = rows.replace(allowed_BV=allowed_BV)
        drawn = draw(logits_BV, rows, position_B, filters=False, top=0)
        for n, token_id in enumerate(np.asarray(drawn.token_B).tolist()):
            if n in live:
                guides[n].accept(token_id)
                ids[n].append(token_id)
                if token_id == vocabulary.eod_id:
                    live.remove(n)
        if not live:
            return [vocabulary.decode(of_one) for of_one in ids]
    raise AssertionError(f"{len(live)} sequences do not end")


@pytest.mark.parametrize("schema, is_valid", [(PERSON, is_person), (NESTED, is_nested)])
def test_every_output_of_a_random_model_is_valid(vocabulary, schema, is_valid):
    """Of 200 in all: two schemas and two vocabularies of 50 each."""
    guides = Guides(vocabulary)
    texts = written(vocabulary, [guides.json_schema(schema) for _ in range(B)])
    assert len(set(texts)) > 5
    for text in texts:
        assert is_valid(json.loads(text)), text


def test_every_output_matches_the_regular_expression(vocabulary):
    pattern = r"(def|class) [a-z]{1,8}→?[0-9]{2}"
    guides = Guides(vocabulary)
    texts = written(vocabulary, [guides.regex(pattern) for _ in range(B)])
    assert len(set(texts)) > 10
    assert not [text for text in texts if not re.fullmatch(pattern, text)]


def test_the_end_comes_only_where_the_text_is_complete(vocabulary):
    guide = Guides(vocabulary).regex("ab?")
    (a, b), eod = (
        vocabulary.encode("a").tolist() + vocabulary.encode("b").tolist(),
        vocabulary.eod_id,
    )
    assert guide.allowed().shape == (vocabulary.size,) and guide.allowed().dtype == bool
    assert guide.allowed()[a] and not guide.allowed()[[b, eod]].any()
    guide.accept(a)
    assert guide.allowed()[[b, eod]].all() and not guide.allowed()[a]
    guide.accept(b)
    assert np.flatnonzero(guide.allowed()).tolist() == [eod]


def test_a_complete_text_may_end_more_than_once(caplog):
    """As with `ignore_eos`."""
    guide, eod = Guides(ByteVocabulary()).regex("a"), ByteVocabulary.eod_id
    for token_id in (ord("a") + 3, eod, eod):
        assert guide.allowed()[token_id]
        guide.accept(token_id)
    assert np.flatnonzero(guide.allowed()).tolist() == [eod] and not caplog.messages


def test_guides_of_the_same_schema_do_not_share_their_place():
    guides = Guides(ByteVocabulary())
    one, other = guides.regex("ab"), guides.regex("ab")
    one.accept(ByteVocabulary().encode("a")[0])
    assert (one.allowed() != other.allowed()).any()


def test_a_schema_as_json_is_that_of_the_mapping():
    guides = Guides(ByteVocabulary())
    of_text, of_mapping = guides.json_schema(json.dumps(NESTED)), guides.json_schema(NESTED)
    for token_id in ByteVocabulary().encode('{"at":['):
        np.testing.assert_array_equal(of_text.allowed(), of_mapping.allowed())
        for guide in of_text, of_mapping:
            assert guide.allowed()[token_id]
            guide.accept(token_id)


def test_no_token_that_is_not_in_the_grammar_is_taken(caplog):
    guide = Guides(ByteVocabulary()).regex("ab")
    guide.accept(ByteVocabulary().encode("x")[0])
    assert np.flatnonzero(guide.allowed()).tolist() == [ByteVocabulary.eod_id]
    guide.accept(ByteVocabulary.eod_id)
    (message,) = caplog.messages
    assert message.startswith("Guided output ends early: ") and "\n" not in message


@pytest.mark.parametrize(
    "schema, message",
    [
        ("{", "the JSON schema is not JSON: .*column 2.*; correct it"),
        ("[1]", "the JSON schema is list; expected an object"),
        ("[" * 100_000, "the JSON schema is not JSON"),
        ({"type": "objct"}, "the JSON schema cannot guide the output: Invalid type: objct"),
        ({"type": "string", "format": "x"}, "Unknown format: x"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around.*is not supported"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "Unsatisfiable schema"),
        ({"not": {}}, "Unimplemented keys"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_schema_that_cannot_guide_is_the_users_mistake(schema, message):
    with pytest.raises(UserError, match=message) as raised:
        Guides(ByteVocabulary()).json_schema(schema)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500


def test_an_expression_that_is_none_is_the_users_mistake():
    with pytest.raises(UserError, match="the regular expression cannot guide.*unclosed group"):
        Guides(ByteVocabulary()).regex("a(")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UserError, match=r"run: pip install 'palmscale\[guided\]'"):
        Guides(ByteVocabulary())
