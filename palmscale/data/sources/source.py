"""What a source of documents offers.

A source is a frozen description of text. It consists of shards: its files, or whatever stands for
files. One process reads a shard from start to end. A document is identified by its shard's name and
its number within the shard, so the result never depends on which process reads what, or when.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from palmscale.data.vocabulary import Vocabulary

TRAIN, VALIDATION = "train", "validation"
SPLITS = (TRAIN, VALIDATION)


@dataclass(frozen=True, order=True, kw_only=True)
class SourceShard:
    """The part of a source that one process reads from start to end.

    Attributes:
        name: unique within the source, and the same on every machine.
        path: the file's path or URL; empty if the shard is not a single file.
        holdout_unit: shards with the same unit are held out together, such as the modules of a
            package; empty: the shard is its own unit.
        split: the split that the source itself assigns; None: the corpus decides.
        bytes: size of the file as stored; 0 if unknown.
        stamp: changes when the file does and is cheap to read: a modification time or an ETag.
        has_many_documents: whether its documents may be held out one by one.
    """

    name: str
    path: str = ""
    holdout_unit: str = ""
    split: str | None = None
    bytes: int = 0
    stamp: str = ""
    has_many_documents: bool = False


class Document(NamedTuple):
    """A text, the group it is counted in, and the prompt that precedes it and has no loss."""

    text: str
    group: str = ""
    prompt: str = ""


class BadDocument(NamedTuple):
    """A document that cannot be read: its location as `file:line`, and the reason.

    It may stand for several, such as the rest of a damaged file; `documents` is None if their
    number is unknown.
    """

    location: str
    reason: str
    documents: int | None = 1


class Example(NamedTuple):
    """A document as tokens: ids [n] without eod, of which the first `prompt_tokens` have no loss.

    `text_bytes` counts the UTF-8 bytes of text and prompt, `prompt_bytes` those of the prompt.
    """

    ids: np.ndarray
    text_bytes: int
    group: str = ""
    prompt_tokens: int = 0
    prompt_bytes: int = 0


class Source(Protocol):
    """A frozen dataclass that describes where documents are. Creating one opens nothing."""

    field: str  # the field that says where the documents are, for messages: "TextFiles.files"

    def shards(self) -> list[SourceShard]:
        """Returns the shards, sorted by name.

        Raises:
            UserError: there are none, or one cannot be reached.
        """

    def vocabulary(self, given: Vocabulary) -> Vocabulary:
        """Returns the vocabulary of the examples: `given`, unless the source has its own."""

    def examples(
        self, shard: SourceShard, vocabulary: Vocabulary
    ) -> Iterator[Example | BadDocument | None]:
        """Yields the shard's documents; None for one without text, which still has a number.

        Memory is bounded by the longest document.
        """


class TextSource:
    """Base of the sources of text: turns documents into examples."""

    def documents(self, shard: SourceShard) -> Iterator[Document | BadDocument]:
        """Yields the shard's documents in order, including those without text."""
        raise NotImplementedError

    def vocabulary(self, given: Vocabulary) -> Vocabulary:
        """Returns `given`: text has no vocabulary of its own."""
        return given

    def examples(
        self, shard: SourceShard, vocabulary: Vocabulary
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
            yield Example(
                ids,
                text_bytes(document),
                document.group,
                prompt_tokens,
                len(document.prompt.encode()),
            )


def text_bytes(document: Document) -> int:
    """Returns the number of UTF-8 bytes of a document, its prompt included."""
    return len(document.text.encode()) + len(document.prompt.encode())
