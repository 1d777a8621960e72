"""JSON lines in and out: each line in has an id, and a file of answers has each id once.

A job that was killed goes on: the answers that are whole stay, and what has one is not done again.
"""

import contextlib
import dataclasses
import fcntl
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from palmscale.errors import UserError
from palmscale.run.nearest import did_you_mean
from palmscale.storage.typed_json import misfit

Id = str | int


@dataclasses.dataclass(frozen=True)
class Line:
    """A line that was read.

    Attributes:
        place: the file and the line's number from 1, for messages.
        id: its own, or its number from 0.
        fields: the others.
    """

    place: str
    id: Id
    fields: Mapping[str, Any]


def read_lines(text: str, source: str, form: Any) -> list[Line]:
    """Returns the lines of a text; empty ones are left out, and are counted.

    Args:
        text: a JSON object a line.
        source: the text's name, for messages.
        form: a `TypedDict` of all fields that a line may have; the id need not be one.

    Raises:
        UserError: a line is not what is expected, or two have the same id; it names the line.
    """
    lines: dict[Id, Line] = {}
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n")):
        if not line.strip():
            continue
        place = f"{source} line {number + 1}"
        fields = dict(_object(line, place))
        line_id = fields.pop("id", number)
        if isinstance(line_id, bool) or not isinstance(line_id, Id):
            raise UserError(f"{place}: id is {_short(line_id)}; expected a string or an integer.")
        known = set(form.__annotations__)
        if unknown := sorted(fields.keys() - known):
            hint = did_you_mean(unknown[0], {*known, "id"})
            raise UserError(f"{place}: unknown field {_short(unknown[0])}{hint}")
        if flaw := misfit(fields, form):
            raise UserError(f"{place}: {flaw}.")
        if line_id in lines:
            raise UserError(
                f"{place}: id {_short(line_id)} is that of {lines[line_id].place}; each line needs"
                " its own."
            )
        lines[line_id] = Line(place, line_id, fields)
    return list(lines.values())


@contextlib.contextmanager
def named(line: Line) -> Iterator[None]:
    """Has a UserError say which line it is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{line.place}: {error}") from None


class Answers:
    """A file of answers, a JSON object a line, that one process writes.

    Each line is written whole as soon as it is known, so a process that is killed loses none. An
    incomplete last line, which a full disk or a lost machine may leave, is dropped.

    Attributes:
        written: the answers that the file had, without the incomplete one.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file, or creates it.

        Raises:
            UserError: it cannot be written, another process writes it, or it holds a line that is
                no answer.
        """
        self._path = path
        try:
            self._file = open(path, "ab+", buffering=0)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}; name another file.") from None
        try:
            self.written = self._claimed()
        except BaseException:
            self.close()
            raise

    def _claimed(self) -> list[Mapping[str, Any]]:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process writes {self._path}; wait, or name another file."
            ) from None
        except OSError:
            pass  # a file system without locks
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        written = [
            self._answer(line, number)
            for number, line in enumerate(content[:whole].split(b"\n")[:-1], start=1)
        ]
        if whole < len(content):
            self._file.truncate(whole)
        return written

    def write(self, answer: Mapping[str, Any]) -> None:
        """Adds an answer."""
        rest = as_line(answer).encode()
        while rest:
            rest = rest[self._file.write(rest) :]

    def close(self) -> None:
        """Lets other processes write the file."""
        self._file.close()

    def _answer(self, line: bytes, number: int) -> Mapping[str, Any]:
        place = f"{self._path} line {number}"
        with contextlib.suppress(UnicodeDecodeError, UserError):
            answer = _object(line.decode(), place)
            if isinstance(answer.get("id"), Id):
                return answer
        raise UserError(f"{place} is no answer with an id; move the file, or name another.")


def as_line(answer: Mapping[str, Any]) -> str:
    """Returns an answer as a line of JSON."""
    return json.dumps(answer, ensure_ascii=False) + "\n"


def _object(line: str, place: str) -> Mapping[str, Any]:
    try:
        value = json.loads(line, parse_constant=_refuse)
        json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except RecursionError:
        raise UserError(f"{place} is nested too deeply.") from None
    except ValueError as error:
        raise UserError(f"{place} is not JSON: {error}; write one object a line.") from None
    if not isinstance(value, dict):
        raise UserError(f"{place} is {_short(value)}; expected a JSON object.")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number of JSON")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
