"""Where documents come from: sources of shards, and which of them are held out.

A source is a frozen description of text. Its shards are its files, or what stands for files: each
is read from start to end by one process. A document is known by its shard's name and its number in
the shard, so that nothing depends on who reads what, or when.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from palmscale.data.vocab import Vocabulary
from palmscale.errors import UserError

TRAIN, VALIDATION = "train", "validation"
SPLITS = (TRAIN, VALIDATION)
FAIL, SKIP = "fail", "skip"


@dataclass(frozen=True, order=True, kw_only=True)
class Shard:
    """What one process reads from start to end.

    Attributes:
        name: within the source, the same on every machine.
        path: of the file, or a URL; empty where there is no one file.
        unit: what is held out with it; a package for source code, else the shard itself.
        split: the source's own split; None: the corpus divides.
        bytes: of the file as it is stored; 0 where unknown.
        stamp: changes when the file does, and costs nothing to read (a time, an entity tag).
        holds_many: whether it has many documents, which may then be held out one by one.
    """

    name: str
    path: str = ""
    unit: str = ""
    split: str | None = None
    bytes: int = 0
    stamp: str = ""
    holds_many: bool = False


class Document(NamedTuple):
    """A text, in which group of its source it belongs, and what comes before it but is given."""

    text: str
    group: str = ""
    prompt: str = ""


class BadDocument(NamedTuple):
    """A document that cannot be read: its place as `file:line`, and why with what is needed."""

    place: str
    why: str


class Example(NamedTuple):
    """A document as tokens: ids without eod, of which the first `prompt_tokens` are given."""

    ids: np.ndarray
    text_bytes: int
    group: str = ""
    prompt_tokens: int = 0


class Source(Protocol):
    """A frozen dataclass that says where documents are; nothing is opened before it is asked."""

    setting: str  # how a user names it in gin: TEXT_FILES

    def shards(self) -> list[Shard]:
        """Returns the shards, in the order of their names.

        Raises UserError where there are none, or one cannot be reached.
        """

    def vocabulary(self, given: Vocabulary) -> Vocabulary:
        """Returns the vocabulary of the examples: `given`, unless the source brings its own."""

    def examples(
        self, shard: Shard, vocabulary: Vocabulary
    ) -> Iterator[Example | BadDocument | None]:
        """Yields the shard's documents; None stands for one without text, which counts as a number.

        Memory is bounded by the longest document.
        """


class TextSource:
    """What sources of text share: documents become examples here."""

    def documents(self, shard: Shard) -> Iterator[Document | BadDocument]:
        """Yields the shard's documents in order, those without text too."""
        raise NotImplementedError

    def vocabulary(self, given: Vocabulary) -> Vocabulary:
        """Returns `given`: text has no vocabulary of its own."""
        return given

    def examples(
        self, shard: Shard, vocabulary: Vocabulary
    ) -> Iterator[Example | BadDocument | None]:
        """Yields the shard's documents encoded; see `Source`."""
        for document in self.documents(shard):
            if isinstance(document, BadDocument):
                yield document
                continue
            if not document.text:
                yield None
                continue
            ids, prompt_tokens = vocabulary.encode(document.text), 0
            if document.prompt:
                prompt_ids = vocabulary.encode(document.prompt)
                ids, prompt_tokens = np.concatenate([prompt_ids, ids]), len(prompt_ids)
            text_bytes = len(document.text.encode()) + len(document.prompt.encode())
            yield Example(ids, text_bytes, document.group, prompt_tokens)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Which documents to train on, how many to hold out, and what a bad one means.

    Held out are whole units, so that nothing is learned from the rest of the same one: files,
    or top-level packages of source code, in the order of their name's sha256 until
    `held_out_fraction` of the bytes is reached. Where there is a single file of many documents,
    each is held out by the sha256 of its own name. A lone document never is. A source with a split
    "validation" of its own keeps it.

    Attributes:
        source: of the documents.
        held_out_fraction: from 0 to below 1.
        on_bad_document: `fail`, or `skip`, which counts and names them in the manifest.
    """

    source: Source
    held_out_fraction: float = 0.05
    on_bad_document: str = FAIL

    def __post_init__(self) -> None:
        if not 0 <= self.held_out_fraction < 1:
            raise UserError(
                f"HELD_OUT_FRACTION={self.held_out_fraction} - needed is a part of the text, from 0"
                " to below 1 - use for example 0.05"
            )
        if self.on_bad_document not in (FAIL, SKIP):
            raise UserError(
                f"ON_BAD_DOCUMENT={self.on_bad_document!r} - known are {FAIL!r} and {SKIP!r} - use"
                " one of them"
            )

    def definition(self) -> dict[str, Any]:
        """Returns the fields that define the documents, ready for JSON."""
        fields = {key: value for key, value in asdict(self.source).items() if value}
        return {
            "source": {"class": type(self.source).__name__, **fields},
            "held_out_fraction": self.held_out_fraction,
            "on_bad_document": self.on_bad_document,
        }

    def split_of(self, shards: Iterable[Shard]) -> Callable[[Shard, int], str]:
        """Returns the function from (shard, number of a document in it) to its split's name."""
        shards = list(shards)
        free = [shard for shard in shards if shard.split is None]
        if len(free) == 1 and free[0].holds_many:
            return lambda shard, number: shard.split or self._split_of_document(shard, number)
        sizes: dict[str, int] = {}
        for shard in free:
            unit = shard.unit or shard.name
            sizes[unit] = sizes.get(unit, 0) + shard.bytes
        held_out = _held_out(sizes, self.held_out_fraction)
        splits = {
            shard.name: shard.split
            or (VALIDATION if (shard.unit or shard.name) in held_out else TRAIN)
            for shard in shards
        }
        return lambda shard, number: splits[shard.name]

    def _split_of_document(self, shard: Shard, number: int) -> str:
        name = f"{shard.name}:{number}"
        place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64
        return VALIDATION if place < self.held_out_fraction else TRAIN


def _held_out(sizes: dict[str, int], fraction: float) -> set[str]:
    if len(sizes) < 2 or not fraction:
        return set()
    wanted, held, units = fraction * sum(sizes.values()), 0, set()
    by_hash = sorted(sizes, key=lambda name: hashlib.sha256(name.encode()).digest())
    for unit in by_hash[:-1]:  # some unit always stays for training
        if units and held >= wanted:
            break
        units.add(unit)
        held += sizes[unit]
    return units
