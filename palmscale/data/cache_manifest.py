"""The form of a row cache's manifest.json; `palmscale.data.build.builder` writes it."""

import re
from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

import numpy as np

from palmscale.storage.typed_json import Count, Size, misfit

_DTYPE = re.compile(r"[<|][ui][1248]")


class RowFile(TypedDict):
    """A row file, one of a split's shards."""

    name: str
    rows: Count
    bytes: Count
    sha256: str


class Group(TypedDict):
    """Counts of the documents of a group."""

    documents: Count
    tokens: Count
    utf8_bytes: Count


class Completions(TypedDict):
    """Tokens with loss, eods included, and the bytes of their text, of whole examples."""

    tokens: Count
    utf8_bytes: Count


class StoredSplit(TypedDict):
    """The rows of a split, and the text that they were made of."""

    rows: Count
    documents: Count
    tokens: Count
    utf8_bytes: Count
    dropped_tail_tokens: NotRequired[Count]
    truncated_documents: NotRequired[Count]
    dropped_documents: NotRequired[Count]
    completions: NotRequired[Completions]
    groups: dict[str, Group]
    length_histogram: list[Count]
    rows_sha256: str
    shards: list[RowFile]


class Source(TypedDict):
    """A file of the text, as it was when the cache was built."""

    name: str
    bytes: Count
    stamp: str
    digest: str


class BadDocuments(TypedDict):
    """Documents that were left out, and the places of the first ones."""

    count: Count
    first: list[str]


class StoredVocabulary(TypedDict):
    """The description of the vocabulary; see `palmscale.data.vocabulary`."""

    digest: str
    size: Count


class Manifest(TypedDict):
    """What a manifest states."""

    format: int
    digest: str
    sources: list[Source]
    bad_documents: BadDocuments
    vocabulary: StoredVocabulary
    sequence_length: Size
    packing: str
    fields: list[tuple[str, str]]
    splits: dict[str, StoredSplit]


def flaw_of(stated: Mapping[str, Any]) -> str | None:
    """Returns why a manifest cannot be one that palmscale wrote; None: it can be.

    Memory is taken for rows before they are read, so the files must be large enough to hold them.
    """
    if flaw := misfit(stated, Manifest):
        return flaw
    for name, dtype in stated["fields"]:
        if not _DTYPE.fullmatch(dtype):
            return f"the field {name!r} has the type {dtype!r}"
    if "target" not in dict(stated["fields"]) or not {"train", "validation"} <= set(
        stated["splits"]
    ):
        return "a field or split is missing"
    width = sum(np.dtype(dtype).itemsize for _, dtype in stated["fields"])
    for name, split in stated["splits"].items():
        if sum(file["rows"] for file in split["shards"]) != split["rows"]:
            return f"the files of {name!r} have other rows than it has"
        for file in split["shards"]:
            if file["rows"] * stated["sequence_length"] * width > file["bytes"]:
                return f"{file['name']!r} is too small for its rows"
    return None
