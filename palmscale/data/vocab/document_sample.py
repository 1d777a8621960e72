"""A sample of the documents of a corpus that fits in memory and is the same on every machine."""

import functools
import hashlib
import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from palmscale.data.dataset import Data
from palmscale.data.sources.corpus import FAIL, Corpus
from palmscale.data.sources.held_out import SplitOf
from palmscale.data.sources.source import (
    BadDocument,
    Document,
    SourceShard,
    TextSource,
    text_bytes,
)
from palmscale.errors import UserError
from palmscale.observe import progress as progress_bars

Progress = Callable[[int, int | None], None]
_READ_PER_KEPT_BYTE = 50  # reading more for a sample of the same size would gain nothing
_COUNT_BYTES = 1 << 20  # of text between two reports of progress


def sample_documents(data: Data, split: str, *, max_bytes: int, seed: int = 0) -> list[Document]:
    """Returns a sample of the documents of a split, with a progress bar.

    Each component of a mixture contributes a share of `max_bytes` according to its weight at
    step 0, and its name becomes the group of its documents.

    Raises:
        UserError: `data` contains a built cache, which has no text; or a document is bad and the
            corpus does not skip them.
    """
    weights = data.weights_at(0)
    documents: list[Document] = []
    for name, part in data.parts().items():
        _check_text(name, part)
        if not weights[name]:
            continue
        share_bytes = max(1, round(max_bytes * weights[name] / sum(weights.values())))
        sample = DocumentSample(corpus=part.corpus, split=split, max_bytes=share_bytes, seed=seed)
        read, total = len(sample.shards), len(sample.all_shards)
        files = f"{total:,} files" if read == total else f"{read:,} of {total:,} files"
        activity = f"Reading {files} of {name}" if name else f"Reading {files}"
        with progress_bars.bar(activity) as update:
            for document in sample.documents(update):
                documents.append(document._replace(group=name or document.group))
    return documents


def _check_text(name: str, part: Data) -> None:
    if part.cache is None:
        return
    where = f"the component {name} has Component.cache" if name else "Data.cache"
    remedy = "its Component.corpus" if name else "Data.corpus"
    raise UserError(
        f"{where}={part.cache}, which contains tokens, but a vocabulary needs text; set {remedy}"
        " instead."
    )


@dataclass(frozen=True, kw_only=True)
class DocumentSample:
    """The first documents of a split in the order of a hash, up to `max_bytes`.

    The hash depends on the seed, the shard's name and the number in the shard. Its threshold adapts
    to the corpus, so every document has the same chance, however its file is compressed.

    Attributes:
        corpus: its source must be a source of text.
        split: of the documents.
        max_bytes: of UTF-8; a single document that is longer is truncated.
        seed: of the hash.

    Raises:
        UserError: the source yields tokens.
    """

    corpus: Corpus
    split: str
    max_bytes: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.corpus.source, TextSource):
            raise UserError(
                f"{type(self.corpus.source).__name__} yields tokens, but a vocabulary needs text;"
                " set Corpus.source to a source of text, such as TextFiles."
            )

    @functools.cached_property
    def all_shards(self) -> tuple[SourceShard, ...]:
        """All shards of the corpus. Raises UserError if there are none."""
        return tuple(self.corpus.source.shards())

    @functools.cached_property
    def split_of(self) -> SplitOf:
        """The split of each document."""
        return self.corpus.split_of(self.all_shards)

    @functools.cached_property
    def shards(self) -> tuple[SourceShard, ...]:
        """The shards to read, in the order of a hash.

        All are read unless they are many times larger than the sample: sampling a terabyte costs
        no more than sampling a fraction of it.
        """
        chosen, total_bytes = [], 0
        for shard in sorted(self.all_shards, key=lambda shard: self._key(shard.name)):
            if self.split not in self.split_of.splits_in(shard):
                continue
            if total_bytes > _READ_PER_KEPT_BYTE * self.max_bytes:
                break
            chosen.append(shard)
            total_bytes += shard.bytes
        return tuple(chosen)

    def documents(self, progress: Progress = lambda done, total: None) -> list[Document]:
        """Returns the sampled documents in the order of their hash; none is without text.

        `progress` is called with the stored bytes that are read and their total.

        Raises:
            UserError: a document is bad and the corpus does not skip them.
        """
        total_bytes = sum(shard.bytes for shard in self.shards)
        done_bytes = 0

        def count(more: int) -> None:
            nonlocal done_bytes
            done_bytes += more
            progress(done_bytes, total_bytes or None)

        heap: list[tuple[int, int, Document]] = []  # the largest key is on top
        held_bytes, threshold = 0, 1 << 64
        for shard in self.shards:
            for number, document in enumerate(self._read(shard, count)):
                if document is None or self.split_of(shard, number) != self.split:
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

    def _read(self, shard: SourceShard, count: Callable[[int], None]) -> Iterator[Document | None]:
        # Text and stored bytes differ through compression or markup; the shard's end corrects it.
        left_bytes, uncounted = shard.bytes, 0
        for document in self.corpus.source.documents(shard):
            if isinstance(document, BadDocument):
                if self.corpus.on_bad_document == FAIL:
                    raise UserError(f"{document.location}: {document.reason}")
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
