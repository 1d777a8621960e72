"""Records with named fields become documents, and a wrong key is answered with the nearest one."""

import json

import pytest

from palmscale.data.sources.jsonl_parquet import Jsonl
from palmscale.data.sources.records import RecordSource
from palmscale.data.sources.source import BadDocument, Document
from palmscale.errors import UserError

CHAT = {"messages": [{"content": "hi"}, {"content": "ho"}, {"content": "hm"}], "meta": {"7": "x"}}


def read(record, **keys):
    return RecordSource(**keys).from_record(record, "here:1")


@pytest.mark.parametrize(
    ("key", "text"),
    [("messages.0.content", "hi"), ("messages.-1.content", "hm"), ("meta.7", "x")],
)
def test_a_key_enters_nested_records_and_lists(key, text):
    assert read(CHAT, text_key=key) == Document(text)


@pytest.mark.parametrize(
    "key", ["messages.3.content", "messages.-4.content", "messages.x.content", "messages.1e3.a"]
)
def test_an_item_that_a_list_lacks_is_no_text(key):
    assert isinstance(read(CHAT, text_key=key), BadDocument)


def test_the_separator_ends_every_prompt_also_an_empty_one():
    keys = {"prompt_key": "q", "text_key": "a", "separator": " => "}
    assert read({"q": "1", "a": "2"}, **keys) == Document("2", prompt="1 => ")
    assert read({"q": "", "a": "2"}, **keys) == Document("2", prompt=" => ")


def test_a_separator_without_a_prompt_is_refused():
    with pytest.raises(UserError, match="Jsonl.separator='=' follows a prompt, but Jsonl.prompt_"):
        Jsonl(files="a.jsonl", separator="=")


def test_a_prompt_without_a_completion_is_a_bad_document_and_an_empty_text_is_none():
    bad = read({"q": "1", "a": ""}, prompt_key="q", text_key="a")
    assert isinstance(bad, BadDocument) and 'under the key "a" is empty' in bad.reason
    assert read({"text": ""}) == Document("")


@pytest.mark.parametrize(
    ("record", "key", "told"),
    [
        ({"question": "1", "answer": "2"}, "qestion", "did you mean question?"),
        ({"meta": {"answer": "2"}}, "answer", "did you mean meta.answer?"),
        (CHAT, "content", "did you mean messages.0.content?"),
        ({"zz": "1", "yy\n": "2"}, "text", r"it has zz, yy\n"),
        (
            {str(n): "" for n in range(99)},
            "text",
            "it has 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ..",
        ),
        (
            {"text": 3},
            "text",
            'no string under the key "text"; correct the document, or Jsonl.text_k',
        ),
        ([1], "text", 'no string under the key "text"; correct'),
    ],
)
def test_a_wrong_key_is_answered_with_the_keys_that_a_record_has(record, key, told):
    bad = Jsonl(files="x", text_key=key).from_record(record, "here:1")
    assert told in bad.reason and "\n" not in bad.reason and len(bad.reason) < 300


def test_keys_are_named_in_records_of_any_depth():
    deep = json.loads('{"a": ' * 400 + '"x"' + "}" * 400)
    assert "no string" in read(deep, text_key="b").reason


def test_a_missing_column_is_named_by_the_key_that_asks_for_it():
    source = RecordSource(text_key="answr.x", prompt_key="q")
    source.check_columns(["q", "answr"], "t.parquet")
    with pytest.raises(UserError, match="t.parquet has no column 'answr' .did you mean answer"):
        source.check_columns(["q", "answer"], "t.parquet")
    assert source.columns() == ["answr", "q"]
