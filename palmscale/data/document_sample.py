"""Some documents of a corpus: as many as fit in memory, and the same ones on every machine."""

import functools
import hashlib
import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from palmscale.data.sources import FAIL, BadDocument, Corpus, Document, Shard, TextSource
from palmscale.errors import UserError

Progress = Callable[[int, int | None], None]
_READ_PER_KEPT_BYTE = 50  # above that, reading terabytes for a sample would buy nothing
_COUNT_BYTES = 1 << 20  # how much text between two reports of progress
_PROBED_DOCUMENTS = 100


@dataclass(frozen=True, kw_only=True)
class DocumentSample:
    """The documents of one split that come first in the order of a hash, up to `max_bytes`.

    The hash is of (seed, shard name, number in the shard): a threshold that adapts to the corpus,
    so that every document has the same chance, whatever its file's compression.

    Attributes:
        corpus: its source must give text.
        split: of the documents.
        max_bytes: of their UTF-8; a single document that is longer is cut.
        seed: of the hash.
    """

    corpus: Corpus
    split: str
    max_bytes: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.corpus.source, TextSource):
            raise UserError(
                f"{type(self.corpus.source).__name__} brings tokens of its own - a vocabulary needs"
                " text - describe files of text, for example TEXT_FILES='my/*.txt'"
            )

    @functools.cached_property
    def all_shards(self) -> tuple[Shard, ...]:
        """Of the corpus, listed once. Raises UserError where there are none."""
        return tuple(self.corpus.source.shards())

    @functools.cached_property
    def shards(self) -> tuple[Shard, ...]:
        """Those that are read, in the order of a hash: all, unless they are many times the sample.

        The order decides where to stop, so that a terabyte costs no more than its hundredth.
        """
        split_of = self.corpus.split_of(self.all_shards)
        chosen, total_bytes = [], 0
        for shard in sorted(self.all_shards, key=lambda shard: self._key(shard.name)):
            # Most often a shard lies in one split as a whole, which asking some numbers tells.
            numbers = range(_PROBED_DOCUMENTS)
            if len(self.all_shards) > 1 and all(split_of(shard, n) != self.split for n in numbers):
                continue
            if total_bytes > _READ_PER_KEPT_BYTE * self.max_bytes:
                break
            chosen.append(shard)
            total_bytes += shard.bytes
        return tuple(chosen)

    def documents(self, progress: Progress = lambda done, total: None) -> list[Document]:
        """Returns the documents in the order of their hash, none of them without text.

        `progress` is told how many of the shards' stored bytes are done, and of how many. Raises
        UserError for a bad document, unless the corpus skips them.
        """
        total_bytes = sum(shard.bytes for shard in self.shards)
        done_bytes = 0

        def count(more: int) -> None:
            nonlocal done_bytes
            done_bytes += more
            progress(done_bytes, total_bytes or None)

        split_of = self.corpus.split_of(self.all_shards)
        heap: list[tuple[int, int, Document]] = []  # the largest key is on top
        held_bytes, threshold = 0, 1 << 64
        for shard in self.shards:
            for number, document in enumerate(self._read(shard, count)):
                if document is None or split_of(shard, number) != self.split:
                    continue
                key = self._key(f"{shard.name}:{number}")
                if key >= threshold:
                    continue
                document = document._replace(text=document.text[: self.max_bytes])
                size = text_bytes(document)
                heapq.heappush(heap, (-key, size, document))
                held_bytes += size
                while held_bytes > self.max_bytes and len(heap) > 1:
                    negative_key, size, _ = heapq.heappop(heap)
                    held_bytes -= size
                    threshold = -negative_key
        return [document for _, _, document in sorted(heap, reverse=True)]

    def _read(self, shard: Shard, count: Callable[[int], None]) -> Iterator[Document | None]:
        # Text and stored bytes differ, by compression or markup; the end of the shard settles it.
        left_bytes, uncounted = shard.bytes, 0
        for document in self.corpus.source.documents(shard):
            if isinstance(document, BadDocument):
                if self.corpus.on_bad_document == FAIL:
                    raise UserError(f"{document.place}: {document.why}")
                yield None
                continue
            yield document if document.text else None
            uncounted += len(document.text)
            if uncounted >= _COUNT_BYTES:
                count(min(uncounted, left_bytes))
                left_bytes -= min(uncounted, left_bytes)
                uncounted = 0
        count(left_bytes)

    def _key(self, name: str) -> int:
        return int.from_bytes(hashlib.sha256(f"sample:{self.seed}:{name}".encode()).digest()[:8])


def text_bytes(document: Document) -> int:
    """Returns the UTF-8 bytes of a document, its prompt included."""
    return len(document.text.encode()) + len(document.prompt.encode())
