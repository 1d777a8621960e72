"""The first half of a build: documents are tokenized and spilled to disk, sorted by key.

A document's key is a hash of the seed, its shard's name and its number in the shard. Rows contain
the documents of a split in the order of their keys, whichever process tokenized them. This is the
first phase of an external merge sort: each run of tokens is sorted in memory and written. A work
unit, which is several shards, writes three files: the tokens, an index of its documents and, last,
a completion record.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from palmscale.data.pack import token_dtype
from palmscale.data.permutation import mix_bits
from palmscale.data.sources import paths
from palmscale.data.sources.corpus import FAIL, Corpus
from palmscale.data.sources.held_out import SplitOf
from palmscale.data.sources.source import BadDocument, Example, SourceShard
from palmscale.data.vocabulary import Vocabulary
from palmscale.errors import UserError

INDEX = np.dtype([("key", "<u8"), ("start", "<u8"), ("length", "<u4"), ("prompt", "<u4")])
_RUN_TOKENS = 1 << 23
_COUNT_BYTES = 1 << 20  # of text between two reports of progress
NAMED_BAD_DOCUMENTS = 100
_GOLDEN = 0x9E3779B97F4A7C15  # odd, so that different numbers have different keys


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpillSpec:
    """What all work units of a build have in common. It can be pickled.

    Attributes:
        corpus: of the documents.
        split_of: the split of each document.
        vocabulary: of the tokens.
        seed: of the documents' order.
        work: folder of the units' files.
    """

    corpus: Corpus
    split_of: SplitOf
    vocabulary: Vocabulary
    seed: int
    work: Path


@dataclasses.dataclass(frozen=True)
class WorkUnit:
    """Shards that one process reads, in order."""

    number: int
    shards: tuple[SourceShard, ...]

    @property
    def name(self) -> str:
        """The stem of its files' names."""
        return f"unit-{self.number:06d}"


def document_key(seed: int, shard_name: str) -> Callable[[int], int]:
    """Returns the function from a document's number in the shard to its key, 64 bits."""
    digest = hashlib.sha256(f"documents:{seed}:{shard_name}".encode()).digest()
    base = int.from_bytes(digest[:8], "little")
    return lambda number: (base + number * _GOLDEN) % 2**64


def spill(unit: WorkUnit, count: Callable[[int], None], *, spec: SpillSpec) -> dict[str, Any]:
    """Writes the files of a work unit and returns its record.

    `count` is called with the number of further bytes of text.

    Raises:
        UserError: a document is bad and the corpus does not skip them, or a file changed while it
            was read.
    """
    writers: dict[str, _SortedRuns] = {}
    bad, rests, named, sources, uncounted = 0, 0, [], [], 0
    for shard in unit.shards:
        key_of = document_key(spec.seed, shard.name)
        count(0)
        digest = paths.digest(shard.path, lambda: count(0)) if shard.path else shard.stamp
        examples = spec.corpus.source.examples(shard, spec.vocabulary)
        for number, example in enumerate(examples):
            if isinstance(example, BadDocument):
                if spec.corpus.on_bad_document == FAIL:
                    raise UserError(f"{example.location}: {example.reason}")
                bad += example.documents or 0
                rests += example.documents is None
                if len(named) < NAMED_BAD_DOCUMENTS:
                    named.append(f"{example.location}: {example.reason}")
            elif example is not None and len(example.ids):
                split = spec.split_of(shard, number)
                if split not in writers:
                    writers[split] = _SortedRuns(spec, f"{unit.name}.{split}")
                writers[split].add(key_of(number), example)
                uncounted += example.text_bytes
                if uncounted >= _COUNT_BYTES:
                    count(uncounted)
                    uncounted = 0
        if shard.path and paths.stamp(shard.path) != shard.stamp:
            raise UserError(
                f"{shard.path} changed while it was read; start again once the file is complete."
            )
        sources.append(
            {"name": shard.name, "bytes": shard.bytes, "stamp": shard.stamp, "digest": digest}
        )
    count(uncounted)
    record = {
        "unit": unit.name,
        "split_of": spec.split_of.digest,
        "sources": sources,
        "bad_documents": {"count": bad, "rests": rests, "first": named},
        "splits": {split: writer.close() for split, writer in sorted(writers.items())},
    }
    write_record(spec.work / f"{unit.name}.json", record)
    return record


def finished(unit: WorkUnit, spec: SpillSpec) -> dict[str, Any] | None:
    """Returns the record of a unit that an earlier build completed from unchanged files."""
    try:
        record = json.loads((spec.work / f"{unit.name}.json").read_text())
    except (OSError, ValueError):
        return None
    read = [(source["name"], source["bytes"], source["stamp"]) for source in record["sources"]]
    now = [(shard.name, shard.bytes, shard.stamp) for shard in unit.shards]
    is_same = read == now and record.get("split_of") == spec.split_of.digest
    is_whole = all("completions" in split for split in record["splits"].values())  # not of 0.1.0
    return record if is_same and is_whole else None


class _SortedRuns:
    """Writes the sorted runs of one unit and split, and counts their documents."""

    def __init__(self, spec: SpillSpec, name: str):
        self._vocabulary, self._name = spec.vocabulary, name
        self._dtype = token_dtype(spec.vocabulary.size)
        self._tokens = open(spec.work / f"{name}.tokens", "wb")
        self._index = open(spec.work / f"{name}.index", "wb")
        self._eod = np.array([spec.vocabulary.eod_id], self._dtype)
        self._keys: list[int] = []
        self._ids: list[np.ndarray] = []
        self._prompt_tokens: list[int] = []
        self._held = self._written = self._prompts = 0
        self._completions = [0, 0]
        self._runs: list[int] = []
        self._lengths = np.zeros(0, np.int64)
        self._groups: dict[str, list[int]] = {}

    def add(self, key: int, example: Example) -> None:
        # Viewed as unsigned, a negative id is a large one: one pass finds both.
        if int(example.ids.view(f"u{example.ids.itemsize}").max()) >= self._vocabulary.size:
            raise UserError(
                f"{self._name}: a document has token ids from {example.ids.min()} to"
                f" {example.ids.max()}, but the vocabulary has {self._vocabulary.size} tokens;"
                " correct the preprocessors of the task."
            )
        self._keys.append(key)
        self._ids.append(example.ids.astype(self._dtype))
        self._prompt_tokens.append(example.prompt_tokens)
        self._held += len(example.ids) + 1
        self._prompts += example.prompt_tokens > 0
        self._completions[0] += len(example.ids) + 1 - example.prompt_tokens
        self._completions[1] += example.text_bytes - example.prompt_bytes
        counts = self._groups.setdefault(example.group, [0, 0, 0])
        counts[0] += 1
        counts[1] += len(example.ids) + 1
        counts[2] += example.text_bytes
        if self._held >= _RUN_TOKENS:
            self._flush()

    def close(self) -> dict[str, Any]:
        """Writes what remains and returns the split's part of the unit's record."""
        if self._keys:
            self._flush()
        for file in (self._tokens, self._index):
            file.close()
            flush(Path(file.name))
        totals = [sum(counts) for counts in zip(*self._groups.values())]
        return {
            **dict(zip(("documents", "tokens", "utf8_bytes"), totals)),
            "prompts": self._prompts,
            "completions": self._completions,
            "groups": self._groups,
            "length_histogram": self._lengths.tolist(),
            "runs": self._runs,
        }

    def _flush(self) -> None:
        keys = mix_bits(np.array(self._keys, np.uint64))
        order = np.argsort(keys, kind="stable")
        ids = [self._ids[i] for i in order.tolist()]
        joined = np.concatenate([part for each in ids for part in (each, self._eod)])
        index = np.zeros(len(ids), INDEX)
        index["key"] = keys[order]
        index["length"] = [len(each) + 1 for each in ids]
        index["prompt"] = np.array(self._prompt_tokens)[order]
        index["start"] = self._written + np.cumsum(index["length"], dtype=np.uint64)
        index["start"] -= index["length"]
        # Not `tofile`, whose error does not say why a write fails.
        self._tokens.write(joined.data)
        self._index.write(index.data)
        self._runs.append(len(index))
        self._lengths = add_counts(self._lengths, length_histogram(index["length"]))
        self._written += len(joined)
        self._keys, self._ids, self._prompt_tokens, self._held = [], [], [], 0


def length_histogram(lengths: np.ndarray) -> np.ndarray:
    """Returns the number of lengths in each bin [2^(i/2), 2^((i+1)/2)); lengths are at least 1."""
    return np.bincount(np.floor(2 * np.log2(lengths)).astype(np.int64))


def add_counts(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns the sum of two histograms, with the shorter one padded with zeros."""
    a, b = sorted((np.asarray(a, np.int64), np.asarray(b, np.int64)), key=len)
    return b + np.pad(a, (0, len(b) - len(a)))


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Writes a completion record as JSON, atomically."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(record, indent=1) + "\n")
    partial.replace(path)


def flush(path: Path) -> None:
    """Forces a file to disk: a record must not survive a power loss that its file does not."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
