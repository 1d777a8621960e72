"""gin's syntax: text to statements whose references and macros stay as written, and back."""

import tokenize
from collections.abc import Iterator, Mapping
from typing import Any

from gin import config_parser
from gin.config_parser import BindingStatement, BlockDeclaration, ImportStatement, IncludeStatement

from palmscale.cli.config.statements import Macro
from palmscale.cli.config.types import Reference
from palmscale.errors import UserError

Statement = BindingStatement | BlockDeclaration | ImportStatement | IncludeStatement

COMMAND_LINE = "--gin."  # A place that begins with it has no line numbers.
_CONTINUED = "    "
_WIDTH = 100


class _AsWritten(config_parser.ParserDelegate):
    """Leaves references unresolved: the caller knows where they are."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        return Reference(scoped_configurable_name, None, evaluate)

    def macro(self, macro_name: str) -> Macro:
        return Macro(macro_name)


def parse(text: str, place: str) -> Iterator[Statement]:
    """Yields the statements of a gin file in order.

    Raises:
        UserError: the text is not gin; the message begins with `place` and the line.
    """
    try:
        yield from config_parser.ConfigParser(text, _AsWritten())
    except SyntaxError as error:
        # gin gives a location tuple, Python's tokenizer sets the usual attributes.
        where = error.args[1] if len(error.args) > 1 else (None, error.lineno)
        said = str(error.args[0]).splitlines()[0].rstrip(".")
        line = str(where[3]).strip() if len(where) > 3 else ""
        raise UserError(f"{_at(place, where[1])}: cannot read {line!r}: {said}.") from error
    except tokenize.TokenError as error:
        raise UserError(
            f"{_at(place, error.args[1][0])}: a bracket or a quotation mark is not closed."
        ) from error
    except RecursionError:
        raise UserError(f"{place}: brackets are nested too deeply to be read.") from None


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
