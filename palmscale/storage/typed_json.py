"""JSON that anyone may have written: bounded in size and depth, and checked against a type.

The form of a stored file is a `TypedDict`. Keys that it does not name are allowed, since a later
version may have written them.
"""

import collections.abc
import inspect
import json
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from palmscale.errors import CorruptionError

MOST_BYTES = 1 << 26  # a manifest has about 150 bytes per file and per array
_MOST_DEPTH, _DEEP = 64, "it is nested too deeply"
_MOST = 2**63 - 1

# Numbers within a range, inclusive.
Count = Annotated[int, (0, _MOST)]
Size = Annotated[int, (1, _MOST)]
Seconds = Annotated[float, (0, 2**40)]


def parse(content: bytes, form: Any, source: object) -> Any:
    """Returns the JSON value in `content`, which has the type `form`.

    Args:
        content: at most `MOST_BYTES`.
        form: a type, such as a `TypedDict`.
        source: the file, for the error.

    Raises:
        CorruptionError: the content is not JSON, or does not have the form.
    """
    try:
        value = json.loads(content)
        flaw = _unusable(value)
    except RecursionError:
        flaw = _DEEP
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError among them
        flaw = str(error)
    if flaw:
        raise _foreign(source, flaw)
    return checked(value, form, source)


def checked(value: Any, form: Any, source: object) -> Any:
    """Returns a JSON value that has the type `form`.

    Raises:
        CorruptionError: it does not; the message names the source and the place in it.
    """
    if flaw := misfit(value, form):
        raise _foreign(source, flaw)
    return value


def _foreign(source: object, flaw: str) -> CorruptionError:
    return CorruptionError(
        f"{source} is not what palmscale writes: {flaw}; use an intact copy of the file."
    )


def misfit(value: Any, wanted: Any) -> str | None:
    """Returns where and why a value does not have the type `wanted`; None: it has.

    Lists and tuples stand for one another, and an int for a float, but no bool for an int. Where a
    type says more than can be checked, the value is accepted.
    """
    for place, found, expected in _misfits(value, wanted):
        where = repr(place.removeprefix("."))[1:-1] or "it"  # keys may hold anything
        return f"{_short(where, 200)} is {_short(repr(found), 60)}; expected {expected}"
    return None


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _misfits(value: Any, wanted: Any, place: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yields the place, the value and what is expected there, for each misfit."""
    origin, args = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted is Any or wanted is object or isinstance(wanted, (str, typing.TypeVar)):
        return
    if origin in (typing.Union, types.UnionType):
        if all(any(_misfits(value, option, place)) for option in args):
            yield place, value, _words(wanted)
    elif origin is Annotated and isinstance(args[1], tuple):
        least, most = args[1]
        if any(_misfits(value, args[0], place)) or not least <= value <= most:
            yield place, value, f"{_words(args[0])} from {least} to {most}"
    elif origin is Annotated or isinstance(wanted, typing.NewType):
        yield from _misfits(value, args[0] if args else wanted.__supertype__, place)
    elif origin is typing.Literal:
        if not any(type(value) is type(option) and value == option for option in args):
            yield place, value, _words(wanted)
    elif typing.is_typeddict(wanted):
        yield from _misfits_of_fields(value, wanted, place)
    elif wanted is None or not _is_instance(value, origin or wanted):
        if wanted is not None or value is not None:
            yield place, value, _words(wanted)
    elif isinstance(value, Mapping) and args:
        for key, item in value.items():
            yield from _misfits(key, args[0], f"{place}.{key}")
            yield from _misfits(item, args[-1], f"{place}.{key}")
    elif isinstance(value, (list, tuple)) and args:
        if origin is tuple and args[-1] is not Ellipsis:
            if len(value) != len(args):
                yield place, value, f"{len(args)} values"
                return
            kinds: Any = args
        else:
            kinds = [args[0]] * len(value)
        for number, (item, kind) in enumerate(zip(value, kinds)):
            yield from _misfits(item, kind, f"{place}.{number}")


def _misfits_of_fields(value: Any, form: Any, place: str) -> Iterator[tuple[str, Any, str]]:
    if not isinstance(value, dict):
        yield place, value, "an object"
        return
    for name, kind in typing.get_type_hints(form, include_extras=True).items():
        if typing.get_origin(kind) in (typing.Required, typing.NotRequired):
            (kind,) = typing.get_args(kind)
        if name in value:
            yield from _misfits(value[name], kind, f"{place}.{name}")
        elif name in form.__required_keys__:
            yield f"{place}.{name}", None, _words(kind)


def _is_instance(value: Any, kind: Any) -> bool:
    if kind in (int, float):
        whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _MOST
        return whole or (kind is float and isinstance(value, float))
    if not inspect.isclass(kind) or kind is collections.abc.Callable:
        return kind is not collections.abc.Callable
    if isinstance(value, (list, tuple)):
        return issubclass(list, kind) or issubclass(tuple, kind)
    try:
        return isinstance(value, kind)
    except TypeError:  # a protocol that cannot be checked at run time
        return True


def _words(wanted: Any) -> str:
    """Returns a type in words: `int or None`."""
    if typing.get_origin(wanted) in (typing.Union, types.UnionType):
        return " or ".join(map(_words, typing.get_args(wanted)))
    if typing.get_origin(wanted) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(wanted)))
    if typing.get_origin(wanted) is Annotated:
        return _words(typing.get_args(wanted)[0])
    if wanted in (None, type(None)):
        return "None"
    if typing.is_typeddict(wanted):
        return "an object"
    if inspect.isclass(wanted) and not typing.get_args(wanted):
        return wanted.__name__
    return str(wanted).replace("typing.", "").replace("collections.abc.", "")


def _unusable(value: Any) -> str | None:
    """Returns why a value cannot be used, whatever its form: it is too deep, or not text."""
    level = [value]
    for _ in range(_MOST_DEPTH):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, str):
                item.encode()  # raises ValueError for half of a surrogate pair
            elif isinstance(item, dict):
                inner += [*item, *item.values()]
            elif isinstance(item, list):
                inner += item
        if not inner:
            return None
        level = inner
    return _DEEP
