"""Reading a built cache: its manifest, and random access to rows, each verified by its checksum.

A cache is a folder that contains manifest.json, the row files (ArrayRecord, one row per record;
listed as "shards" in the manifest) and the files of the vocabulary. It contains all that training
needs, so it can be copied to machines without TensorFlow and SeqIO.
"""

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module

from palmscale.data.cache_manifest import flaw_of
from palmscale.data.pack import CONCATENATE, decode_rows, position_of
from palmscale.data.sources.source import SPLITS
from palmscale.data.vocabulary import Vocabulary, load_vocabulary
from palmscale.errors import CorruptionError, UserError
from palmscale.storage.inside import inside, read_limited
from palmscale.storage.place import Place, local_path
from palmscale.storage.typed_json import MOST_BYTES, parse

FORMAT = 2
MANIFEST = "manifest.json"


class Split:
    """The rows of one split of a cache. Any number of threads may read concurrently.

    Attributes:
        num_rows: number of rows.
        tokens: in all rows, eods included.
        documents: number of documents.
        utf8_bytes: of the text of all documents.
        dropped_tail_tokens: tokens of the last documents that did not fill a row.
        truncated_documents: packed examples that are longer than a row, cut at its end.
        dropped_documents: packed examples left out because their prompt alone fills a row.
        is_packed: whether rows hold whole examples side by side, each a segment of its own.
        fields: name and stored type of each value of a row.
    """

    def __init__(self, name: str, directory: Path, manifest: Mapping[str, Any]):
        stored = manifest["splits"][name]
        self.name, self.directory = name, directory
        self.sequence_length: int = manifest["sequence_length"]
        self.is_packed: bool = manifest["packing"] != CONCATENATE
        self.num_rows: int = stored["rows"]
        self.documents: int = stored["documents"]
        self.tokens: int = stored["tokens"]
        self.utf8_bytes: int = stored["utf8_bytes"]
        self.dropped_tail_tokens: int = stored.get("dropped_tail_tokens", 0)
        self.truncated_documents: int = stored.get("truncated_documents", 0)
        self.dropped_documents: int = stored.get("dropped_documents", 0)
        self._completions: Mapping[str, int] | None = stored.get("completions")
        self.fields = tuple((field, np.dtype(dtype)) for field, dtype in manifest["fields"])
        self._files = stored["shards"]
        self._starts = np.cumsum([0] + [file["rows"] for file in self._files])
        self._readers: list[Any] = [None] * len(self._files)
        self._locks = [threading.Lock() for _ in self._files]

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes per token, eods included: converts nats per token into bits per byte."""
        return self.utf8_bytes / max(1, self.tokens + self.dropped_tail_tokens)

    @property
    def loss_bytes_per_token(self) -> float | None:
        """UTF-8 bytes per token with loss: of packed rows, those of completions.

        None: 0.1.0 packed the rows, and did not count them.
        """
        if not self.is_packed:
            return self.bytes_per_token
        if self._completions is None:
            return None
        return self._completions["utf8_bytes"] / max(1, self._completions["tokens"])

    def read(self, row_indices: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the rows in the requested order, [n, sequence_length] by field.

        The fields are `target`, int32, and for packed rows also `segment` and `position`, int32,
        and `weight`, float32.

        Raises:
            CorruptionError: a row differs from its checksum; names the file and the row.
            IndexError: a row does not exist.
        """
        row_indices = np.asarray(row_indices, dtype=np.int64)
        if row_indices.size and not 0 <= row_indices.min() <= row_indices.max() < self.num_rows:
            raise IndexError(f"rows {row_indices} are not all in 0 .. {self.num_rows - 1}")
        shape = (len(row_indices), self.sequence_length)
        rows = {
            name: np.empty(shape, np.float32 if name == "weight" else np.int32)
            for name, _ in self.fields
        }
        file_of = np.searchsorted(self._starts, row_indices, side="right") - 1
        position_in_file = row_indices - self._starts[file_of]
        for file in sorted(set(file_of.tolist())):
            here = (file_of == file).nonzero()[0]
            positions = position_in_file[here].tolist()
            records = self._records(file, positions)
            try:
                values = decode_rows(records, positions, file, self.fields)
            except (CorruptionError, ValueError) as error:
                raise self._corrupt(file, str(error)) from None
            for name, value in values.items():
                rows[name][here] = value
        if "segment" in rows:
            rows["position"] = position_of(rows["segment"])
        return rows

    def _records(self, file: int, positions: list[int]) -> list[bytes]:
        records: list[bytes] = []
        with self._locks[file]:  # a reader has a position: threads must not share it
            try:
                reader = self._readers[file] = self._readers[file] or self._open(file)
                # One by one: for a list of positions the reader starts threads of its own, which
                # takes four times the CPU.
                for position in positions:
                    reader.seek(position)
                    records.append(reader.read())
            except (RuntimeError, IndexError) as error:
                self._readers[file] = None
                detail = (str(error).splitlines() or [type(error).__name__])[0]
                what = f"row {positions[len(records)]} cannot be read ({detail})"
                raise self._corrupt(file, what) from None
        return records

    def _open(self, file: int) -> Any:
        path = str(self.directory / self._files[file]["name"])
        options = "readahead_buffer_size:0,max_parallelism:0"
        return array_record_module.ArrayRecordReader(path, options)

    def _corrupt(self, file: int, what: str) -> CorruptionError:
        return damaged(f"{self.directory / self._files[file]['name']}: {what}")


class RowCache:
    """An opened cache.

    Attributes:
        digest: a function of the rows, the vocabulary and the sequence length, but not of paths,
            times, or how rows are distributed over files. Training on two caches of equal digest
            gives equal results.
        manifest: the content of manifest.json.
    """

    def __init__(self, directory: Path, manifest: Mapping[str, Any]):
        self.directory, self.manifest = directory, manifest
        self.digest: str = manifest["digest"]
        self.sequence_length: int = manifest["sequence_length"]
        self.vocabulary: Vocabulary = load_vocabulary(manifest["vocabulary"], directory)
        self._splits = {name: Split(name, directory, manifest) for name in manifest["splits"]}

    @classmethod
    def open(cls, directory: str | os.PathLike) -> "RowCache":
        """Returns the cache in `directory`, having checked that its files have their full size.

        Raises:
            UserError: there is no cache.
            CorruptionError: the cache is damaged.
        """
        directory = local_path(directory)
        manifest = read_manifest(directory)
        for file in files_of(manifest):
            path = inside(directory, file["name"])
            if not path.exists():
                raise damaged(f"{path} is missing")
            if (size := path.stat().st_size) != file["bytes"]:
                raise damaged(f"{path} has {size:,} bytes, not {file['bytes']:,}")
        return cls(directory, manifest)

    @property
    def held_out_share(self) -> float:
        """The share of the text's bytes that is held out, from 0 to 1."""
        train, held_out = (self._splits[name].utf8_bytes for name in SPLITS)
        return held_out / max(1, train + held_out)

    @property
    def skipped(self) -> str:
        """What the build left out: "3 documents, such as a.jsonl:7: ..."; empty: nothing."""
        bad = self.manifest["bad_documents"]
        counts = ((bad["count"], "", "document"), (bad.get("rests", 0), "the rest of ", "file"))
        told = [f"{of}{count:,} {what}{'s' * (count > 1)}" for count, of, what in counts if count]
        return f"{' and '.join(told)}, such as {bad['first'][0]}" if told else ""

    @property
    def too_long(self) -> str:
        """Which examples did not fit packed rows: "of 55 examples ..."; empty: all did."""
        splits = self._splits.values()
        truncated = sum(split.truncated_documents for split in splits)
        dropped = sum(split.dropped_documents for split in splits)
        told = [f"{truncated:,} longer ones are truncated"] if truncated else []
        told += [f"{dropped:,} whose prompt fills a row are left out"] if dropped else []
        documents = sum(split.documents for split in splits)
        of = f"of {documents:,} examples in rows of {self.sequence_length:,} tokens"
        return f"{of}, {' and '.join(told)}" if told else ""

    def split(self, name: str) -> Split:
        """Returns "train" or "validation"; the latter has no rows if nothing is held out."""
        return self._splits[name]


def read_manifest(directory: Place) -> dict[str, Any]:
    """Returns the content of a cache's manifest.

    Raises:
        UserError: there is no cache, or it has another format.
        CorruptionError: the manifest is damaged.
    """
    path = directory / MANIFEST
    try:
        content = read_limited(path, MOST_BYTES)
    except OSError as error:
        raise UserError(
            f"{directory} is not a cache: {MANIFEST} cannot be read ({error.strerror}); correct the"
            " path."
        ) from None
    try:
        stated = parse(content, dict[str, Any], path)
    except CorruptionError:
        raise damaged(f"{path} differs from its digest") from None
    if stated.get("format", FORMAT) != FORMAT:
        raise UserError(
            f"{path} has format {stated['format']!r}, but this palmscale reads format {FORMAT};"
            " rebuild the cache, or use the palmscale that built it."
        )
    if flaw := flaw_of(stated):
        raise damaged(f"{path} is not what palmscale writes: {flaw}")
    if rows_digest(stated) != stated["digest"]:
        raise damaged(f"{path} differs from its digest")
    return stated


def damaged(what: str) -> CorruptionError:
    """Returns the error for a cache that is not as it was built."""
    return CorruptionError(f"{what}; restore the file, or delete the cache so that it is rebuilt.")


def rows_digest(manifest: Mapping[str, Any]) -> str:
    """Returns the digest of what determines the rows of a manifest and how they are read."""
    apart = ("shards", "completions")  # counts that 0.1.0 did not have
    rows = {
        name: {key: value for key, value in split.items() if key not in apart}
        for name, split in manifest["splits"].items()
    }
    what = [manifest["format"], manifest["vocabulary"]["digest"], manifest["vocabulary"]["size"]]
    return digest_of([*what, manifest["sequence_length"], manifest["fields"], rows])


def files_of(manifest: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields {"name", "rows", "bytes", "sha256"} of each row file of every split."""
    for split in manifest["splits"].values():
        yield from split["shards"]


def digest_of(value: Any) -> str:
    """Returns the sha256 of a value as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Returns the sha256 of a file's content."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
