"""Stored JSON has its form, or a line says where it has not."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, NotRequired, TypedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmscale.errors import CorruptionError
from palmscale.storage.typed_json import Count, Seconds, Size, checked, misfit, parse


class Part(TypedDict):
    size: Size
    name: NotRequired[str]


class Whole(TypedDict):
    parts: dict[str, Part]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (3, int),
        (3, float),
        (float("nan"), float),
        ("a", str),
        (None, None),
        (None, int | None),
        ([1, 2], list[int]),
        ((1, 2), tuple[int, ...]),
        ((1, "a"), tuple[int, str]),
        (((0, 1.5),), float | tuple[tuple[int, float], ...]),
        (["a"], Sequence[str]),
        ({"a": [1]}, dict[str, list[int]]),
        ({"parts": {"a": {"size": 1, "more": None}}}, Whole),
        (0, Count),
        (1.5, Seconds),
        ("a", Literal["a", "b"]),
        (..., Any),
        ("anything", "a type that cannot be read"),
    ],
    ids=repr,
)
def test_a_value_of_its_type_fits(value, wanted):
    assert misfit(value, wanted) is None


@pytest.mark.parametrize(
    ("value", "wanted", "told"),
    [
        (True, int, "it is True; expected int"),
        (2**63, int, "it is 9223372036854775808; expected int"),
        (3.0, int, "it is 3.0; expected int"),
        (1, str, "it is 1; expected str"),
        (None, int, "it is None; expected int"),
        ("a", int | None, "it is 'a'; expected int or None"),
        ([1, "a"], list[int], "1 is 'a'; expected int"),
        ((1,), tuple[int, str], r"it is \(1,\); expected 2 values"),
        ({"a": {"b": "c"}}, dict[str, dict[str, int]], "a.b is 'c'; expected int"),
        ({"parts": {"a": {}}}, Whole, "parts.a.size is None; expected int"),
        ({"parts": {"a": {"size": 0}}}, Whole, "parts.a.size is 0; expected int from 1 to"),
        ({"parts": []}, Whole, r"parts is \[\]; expected dict"),
        ([], Whole, "expected an object"),
        (float("nan"), Seconds, "it is nan; expected float from 0"),
        (-1, Count, "expected int from 0"),
        ("c", Literal["a", "b"], "expected 'a' or 'b'"),
        ("f", Callable, "it is 'f'"),
        ("x" * 900, int, "it is 'x{56}\\.\\.\\.; expected int"),
    ],
    ids=repr,
)
def test_a_value_of_another_type_is_told_with_its_place(value, wanted, told):
    assert re.search(told, misfit(value, wanted))
    with pytest.raises(CorruptionError, match="there is not what palmscale writes"):
        checked(value, wanted, "there")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"{",
        b"[]",
        b'{"parts": 1}',
        b"[" * 100_000,
        b'{"parts": ' + b"[" * 200 + b"]" * 200 + b"}",
        b'{"parts": {"\\ud800": {"size": 1}}}',
        b'{"parts": {}, "more": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda content: content[:20].decode("latin1"),
)
def test_what_is_not_of_the_form_is_named(content):
    with pytest.raises(CorruptionError, match="there is not what palmscale writes") as caught:
        parse(content, Whole, "there")
    assert "\n" not in str(caught.value)


def test_what_is_of_the_form_is_returned():
    assert parse(b'{"parts": {}}', Whole, "there") == {"parts": {}}


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
KEYS = st.sampled_from(["parts", "size", "name"]) | st.text(max_size=3)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=6
)


@settings(max_examples=60, deadline=None)
@given(VALUES | st.fixed_dictionaries({"parts": st.dictionaries(st.text(), VALUES)}))
def test_any_json_has_the_form_or_is_told_in_one_line(value):
    try:
        assert set(parse(json.dumps(value).encode(), Whole, "there")) >= {"parts"}
    except CorruptionError as error:
        assert "\n" not in str(error)


@settings(max_examples=60, deadline=None)
@given(st.binary())
def test_any_bytes_are_told_in_one_line(content):
    with pytest.raises(CorruptionError):
        parse(content, Whole, "there")
