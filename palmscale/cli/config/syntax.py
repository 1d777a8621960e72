"""gin's syntax: text to statements whose references and macros stay as written, and back."""

import math
import tokenize
from collections.abc import Iterator, Mapping
from typing import Any

from gin import config_parser
from gin.config_parser import BindingStatement, BlockDeclaration, ImportStatement, IncludeStatement

from palmscale.cli.config.statements import COMMAND_LINE, Macro, items
from palmscale.cli.config.types import Reference
from palmscale.errors import UserError

Statement = BindingStatement | BlockDeclaration | ImportStatement | IncludeStatement

_CONTINUED = "    "
_WIDTH = 100
_MAX_BITS = 63  # of an integer in a checkpoint's JSON, in NumPy and in JAX
_MAX_DEPTH = 32
_TOO_DEEP = f"brackets are nested too deeply; nest at most {_MAX_DEPTH}."


class _AsWritten(config_parser.ParserDelegate):
    """Leaves references unresolved: the caller knows where they are."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        return Reference(scoped_configurable_name, None, evaluate)

    def macro(self, macro_name: str) -> Macro:
        return Macro(macro_name)


def parse(text: str, place: str) -> Iterator[Statement]:
    """Yields the statements of a gin file in order.

    Raises:
        UserError: the text is not gin, or a value is not one that can be stored; the message
            begins with `place` and the line.
    """
    line = 1
    try:
        parser = config_parser.ConfigParser(text, _AsWritten())
        for statement in _statements(parser):
            line = statement.location.line_num
            if isinstance(statement, BindingStatement):
                _check_value(statement.value, _at(place, line))
            yield statement
            line = parser.current_token.start[0]
    except SyntaxError as error:
        # gin gives a location tuple, Python's tokenizer sets the usual attributes.
        where = error.args[1] if len(error.args) > 1 else (None, error.lineno)
        said = str(error.args[0]).splitlines()[0].rstrip(".")
        shown = str(where[3]).strip(" \t\r\n") if len(where) > 3 else ""
        hidden = next((f"; delete U+{ord(c):04X}" for c in shown if not c.isprintable()), "")
        message = f"{_at(place, where[1])}: cannot read {shown!r}: {said}{hidden}."
        raise UserError(message) from error
    except tokenize.TokenError as error:
        raise UserError(
            f"{_at(place, error.args[1][0])}: a bracket or a quotation mark is not closed, or the"
            " last line ends in a backslash."
        ) from error
    except RecursionError:
        raise UserError(f"{_at(place, line)}: {_TOO_DEEP}") from None
    except TypeError as error:  # gin makes a dict of what it has read
        raise UserError(
            f"{_at(place, line)}: {error}; write a number, a string or a tuple as the key."
        ) from error


def _statements(parser: config_parser.ConfigParser) -> Iterator[Statement]:
    yield from parser
    if parser.current_token.type != tokenize.ENDMARKER:
        raise SyntaxError("gin stopped here", (None, *parser.current_token.start, ""))


def _check_value(value: Any, place: str, depth: int = 0) -> None:
    """Refuses what a setting cannot hold: no file, message or checkpoint could state it."""
    if depth > _MAX_DEPTH:
        raise UserError(f"{place}: {_TOO_DEEP}")
    if type(value) is int and value.bit_length() > _MAX_BITS:
        raise UserError(f"{place}: an integer has {value.bit_length()} bits; use at most 63.")
    if type(value) is float and math.isinf(value):
        raise UserError(f"{place}: a number is larger than any float; use at most 1.7e308.")
    if type(value) is str and any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value):
        raise UserError(f"{place}: {value!r} holds a character that is not text; remove it.")
    for item in items(value):
        _check_value(item, place, depth + 1)


def _at(place: str, line: int) -> str:
    return place if place.startswith(COMMAND_LINE) else f"{place}:{line}"


def binding(name: str, value: Any) -> str:
    """Returns `name = value` as gin reads it; a long value goes on in indented lines."""
    line = f"{name} = {value!r}"
    if len(line) <= _WIDTH or not isinstance(value, (tuple, list, Mapping)) or not value:
        return line
    if isinstance(value, Mapping):
        items, (opening, closing) = [f"{k!r}: {v!r}" for k, v in value.items()], "{}"
    else:
        items, (opening, closing) = list(map(repr, value)), "[]" if type(value) is list else "()"
    lines = [f"{_CONTINUED}{item}," for item in items]
    return "\n".join([f"{name} = {opening}", *lines, closing])
