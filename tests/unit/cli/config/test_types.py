import collections.abc
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Optional, Protocol

import pytest

from palmscale.cli.config import types
from palmscale.cli.config.types import Reference, describe, fits, suggestion


class Model:
    pass


class Small(Model):
    pass


class Named(Protocol):
    name: str


class Reader(Protocol):
    name: str

    def read(self): ...


class Builder(Protocol):
    def __call__(self, count): ...


class File:
    def read(self): ...


def make_model() -> Model:
    return Model()


def make_path() -> str | None:
    return None


def _ref(target, evaluated=True):
    return Reference(target.__name__, target, evaluated)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (5, int),
        (5, float),
        (5.0, float),
        (True, bool),
        ("a", str),
        (None, int | None),
        (None, Optional[str]),  # noqa: UP045 - users write it
        ((1, 2), tuple[int, ...]),
        ((1, "a"), tuple[int, str]),
        ((), tuple[int, ...]),
        ([1], list[int]),
        ([1, 2], Sequence[int]),
        ((1, 2), Sequence[float]),
        ("a", str | Sequence[str]),
        (["a"], str | Sequence[str]),
        ({"a": 1}, dict[str, int]),
        ({"a": 1}, Mapping[str, float]),
        ("rms", Literal["rms", "layer"]),
        (object(), Any),
        (5, "unread"),
        ("x", str | os.PathLike),
        ("x", collections.abc.Hashable),
        (5, Named),
        (_ref(File), Reader),
        (_ref(make_model, False), Builder),
        (_ref(Small, False), type),
        (_ref(Small), Model),
        (_ref(Small), Model | None),
        (_ref(make_model), Model),
        (_ref(make_path), str | None),
        (_ref(make_path), str),
        (_ref(len), int),
        (_ref(len, False), Callable[..., int]),
        (_ref(Small, False), type[Model]),
        (_ref(len, False), collections.abc.Callable),
    ],
)
def test_fits(value, wanted):
    assert fits(value, wanted)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("5", int),
        (5.0, int),
        (True, int),
        (True, float),
        (1, bool),
        (None, int),
        (5, str),
        (5, tuple[int, ...]),
        ([1], tuple[int, ...]),
        ((1, "a"), tuple[int, ...]),
        ((1,), tuple[int, int]),
        ("ab", Sequence[str]),
        (["a", 1], Sequence[str]),
        ({"a": "b"}, dict[str, int]),
        ("batch", Literal["rms", "layer"]),
        (1, Literal[True]),
        (5, Model),
        ("x", Model | None),
        (_ref(Small), int),
        (_ref(make_model), str),
        (_ref(make_path), int),
        (_ref(make_model, False), int),
        ("files", Reader),
        ((1,), Reader),
        (None, Reader),
        (_ref(Small), Reader),
        (_ref(File, False), Reader),
        (_ref(Small, False), Model),
        (0.5, Builder),
        (5, Callable[..., int]),
        ("f", Callable[..., int] | None),
    ],
)
def test_does_not_fit(value, wanted):
    assert not fits(value, wanted)


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (int, "int"),
        (int | None, "int or None"),
        (Literal["rms", "layer"], "'rms' or 'layer'"),
        (tuple[int, ...], "tuple[int, ...]"),
        (Callable[..., int], "Callable[..., int]"),
    ],
)
def test_describe_reads_as_a_user_would_say_it(wanted, text):
    assert describe(wanted) == text


@pytest.mark.parametrize(
    ("value", "wanted", "better"),
    [
        ("5", int, 5),
        (1e6, int, 1_000_000),
        (5, tuple[int, ...], (5,)),
        ([1, 2], tuple[int, ...], (1, 2)),
        ("true", bool, True),
        ("a", list[str], ["a"]),
        ("many", int, None),
        (None, int, None),
    ],
)
def test_suggestion_is_what_the_user_may_have_meant(value, wanted, better):
    assert suggestion(value, wanted) == better


def test_a_reference_without_its_brackets_is_suggested_with_them():
    assert repr(suggestion(_ref(make_model, False), int | Small)) == "None"
    assert repr(suggestion(_ref(len, False), int)) == "@len()"


@dataclasses.dataclass
class Base:
    width: "int"


@dataclasses.dataclass
class Derived(Base):
    depth: "Undefined" = 1  # noqa: F821


def test_hint_reads_inherited_and_written_out_types():
    assert types.hint(Derived, "width") is int
    assert types.hint(Derived, "depth") is Any
    assert types.hint(make_model, "return") is Model
    assert types.hint(len, "obj") is Any


def test_missing_names_what_has_no_default():
    assert types.missing(Derived, set()) == ["width"]
    assert types.missing(Derived, {"width"}) == []


def test_positional_only_parameters_cannot_be_bound():
    assert list(types.parameters(lambda a, /, b, *, c: None)) == ["b", "c"]
    assert types.takes_any_name(lambda **k: None)
