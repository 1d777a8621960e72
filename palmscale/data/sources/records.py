"""Sources whose documents are records with named fields: JSON objects, or rows of a table."""

import difflib
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from palmscale.data.sources.source import BadDocument, Document, TextSource
from palmscale.errors import UserError

_SHOWN_KEYS = 12  # longer lists are noise in a one-line message
_KNOWN_KEYS, _LONGEST_KEY = 200, 100


@dataclass(frozen=True, kw_only=True)
class RecordSource(TextSource):
    """Base of the sources of records.

    A dot in a key enters a nested record or, with a number, a list: `meta.pile_set_name`,
    `messages.0.content`, `messages.-1.content`.

    Attributes:
        text_key: key of the document's text; with a prompt, the completion to train on.
        prompt_key: key of the prompt, which precedes the text and has no loss; None: no prompt.
        separator: text between the prompt and the completion; part of the prompt, without loss.
        group_key: key of the group in which a document is counted; None: one group.

    Raises:
        UserError: there is a separator but no prompt.
    """

    text_key: str = "text"
    prompt_key: str | None = None
    separator: str = ""
    group_key: str | None = None

    def __post_init__(self) -> None:
        if self.separator and self.prompt_key is None:
            name = type(self).__name__
            raise UserError(
                f"{name}.separator={self.separator!r} follows a prompt, but {name}.prompt_key is"
                " not set; set it, or leave the separator empty."
            )

    def columns(self) -> list[str]:
        """Returns the fields of a record that the keys read."""
        given = filter(None, (self.text_key, self.prompt_key, self.group_key))
        return list(dict.fromkeys(key.partition(".")[0] for key in given))

    def check_columns(self, existing: list[str], what: str) -> None:
        """Checks that a table has every column that the keys name.

        Raises:
            UserError: a column is missing; `what` is the table.
        """
        for name in ("text_key", "prompt_key", "group_key"):
            key = getattr(self, name)
            if key is not None and key.partition(".")[0] not in existing:
                raise UserError(
                    f"{what} has no column {key.partition('.')[0]!r}{_near(key, existing)};"
                    f" set {type(self).__name__}.{name} to an existing one."
                )

    def from_record(self, record: Any, location: str) -> Document | BadDocument:
        """Returns the document of a record; bytes in it are decoded as UTF-8."""
        try:
            text = _value(record, self.text_key)
            prompt = "" if self.prompt_key is None else _value(record, self.prompt_key)
            group = "" if self.group_key is None else _value(record, self.group_key)
        except UnicodeDecodeError as error:
            return not_utf8(location, error, "the text")
        for field, key, value in (
            ("text_key", self.text_key, text),
            ("prompt_key", self.prompt_key, prompt),
        ):
            if not isinstance(value, str):
                return BadDocument(
                    location,
                    f'there is no string under the key "{key}"{_near(key, _keys(record))};'
                    f" correct the document, or {type(self).__name__}.{field}.",
                )
        if self.prompt_key is not None and not text:
            return BadDocument(
                location,
                f'the text under the key "{self.text_key}" is empty, and a prompt without a'
                " completion teaches nothing; add the completion, or leave the document out.",
            )
        if self.prompt_key is not None:
            prompt += self.separator
        return Document(text, "" if group is None else str(group), prompt)


def not_utf8(location: str, error: UnicodeDecodeError, what: str) -> BadDocument:
    """Returns the stand-in for a document with bytes that are not UTF-8."""
    return BadDocument(
        location,
        f"byte {error.start} of {what} is not UTF-8; convert the file, or leave the document out.",
    )


def _value(record: Any, key: str) -> Any:
    for part in key.split("."):
        if isinstance(record, list):
            record = _item(record, part)
        else:
            record = record.get(part) if isinstance(record, dict) else None
    return record.decode("utf-8") if isinstance(record, bytes) else record


def _item(items: list[Any], part: str) -> Any:
    if not part.removeprefix("-").isdecimal() or len(part) > 9:
        return None
    index = int(part)
    return items[index] if -len(items) <= index < len(items) else None


def _keys(record: Any, prefix: str = "") -> Iterator[str]:
    """Yields the dotted keys under which a record has strings."""
    if isinstance(record, (str, bytes)):
        yield prefix
        return
    found: Iterable[tuple[Any, Any]] = record.items() if isinstance(record, dict) else ()
    if isinstance(record, list):
        found = enumerate(record[:_SHOWN_KEYS])
    for name, value in found:
        key = f"{prefix}.{name}" if prefix else str(name)
        if len(key) <= _LONGEST_KEY:  # objects may nest a thousand deep
            yield from _keys(value, key)


def _near(key: str, keys: Iterable[str]) -> str:
    """Returns which of the keys may have been meant, in parentheses; empty if there are none."""
    known = list(itertools.islice(keys, _KNOWN_KEYS))
    last = key.rpartition(".")[2]
    close = difflib.get_close_matches(key, known, n=1) or [
        name for name in known if name.rpartition(".")[2] == last
    ]
    if close:
        return f" (did you mean {_shown(close[0])}?)"
    listed = ", ".join(map(_shown, known[:_SHOWN_KEYS]))
    return f" (it has {listed}{', ...' if len(known) > _SHOWN_KEYS else ''})" if known else ""


def _shown(key: str) -> str:
    return json.dumps(key)[1:-1]  # on one line, whatever it contains
