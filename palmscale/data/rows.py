"""Reading a built cache: its manifest, and rows at random, each checked against its sum.

A cache is a directory: manifest.json, the shards (ArrayRecord, a row a record) and the vocabulary's
files. It holds all that training needs, so it may be copied to where TensorFlow and SeqIO are
absent.
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

from palmscale.data.pack import CONCATENATE, decode_rows, position_of
from palmscale.data.vocab import Vocabulary, load_vocabulary
from palmscale.errors import CorruptionError, UserError

FORMAT = 2
MANIFEST = "manifest.json"


class Split:
    """The rows of one split of a cache. Any number of threads may read at once.

    `tokens` are those in rows, eods included; `utf8_bytes` the text of all documents, of which the
    last `dropped_tail_tokens` are in no row.
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
        self.fields = tuple((field, np.dtype(dtype)) for field, dtype in manifest["fields"])
        self._shards = stored["shards"]
        self._starts = np.cumsum([0] + [shard["rows"] for shard in self._shards])
        self._readers: list[Any] = [None] * len(self._shards)
        self._locks = [threading.Lock() for _ in self._shards]

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes per token, eods counted as tokens: turns nats a token into bits a byte."""
        return self.utf8_bytes / max(1, self.tokens + self.dropped_tail_tokens)

    def read(self, row_indices: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the rows in the order asked for, [n, sequence_length] by field.

        The fields are `target`, int32, and for packed rows `segment` and `position`, int32, and
        `weight`, float32. Raises CorruptionError naming the shard and row when a row differs from
        its checksum, and IndexError when there is no such row.
        """
        row_indices = np.asarray(row_indices, dtype=np.int64)
        if row_indices.size and not 0 <= row_indices.min() <= row_indices.max() < self.num_rows:
            raise IndexError(f"rows {row_indices} are not all in 0 .. {self.num_rows - 1}")
        shape = (len(row_indices), self.sequence_length)
        rows = {
            name: np.empty(shape, np.float32 if name == "weight" else np.int32)
            for name, _ in self.fields
        }
        shard_of = np.searchsorted(self._starts, row_indices, side="right") - 1
        places_of = row_indices - self._starts[shard_of]
        for shard in sorted(set(shard_of.tolist())):
            here = (shard_of == shard).nonzero()[0]
            places = places_of[here].tolist()
            records = self._records(shard, places)
            try:
                values = decode_rows(records, places, shard, self.fields)
            except (CorruptionError, ValueError) as error:
                raise self._corrupt(shard, str(error)) from None
            for name, value in values.items():
                rows[name][here] = value
        if "segment" in rows:
            rows["position"] = position_of(rows["segment"])
        return rows

    def _records(self, shard: int, places: list[int]) -> list[bytes]:
        records: list[bytes] = []
        with self._locks[shard]:  # a reader has a position, and must not be shared while it reads
            try:
                reader = self._readers[shard] = self._readers[shard] or self._open(shard)
                # One by one: for a list of places the reader wakes threads of its own, which takes
                # four times the CPU.
                for place in places:
                    reader.seek(place)
                    records.append(reader.read())
            except (RuntimeError, IndexError) as error:
                self._readers[shard] = None
                detail = (str(error).splitlines() or [type(error).__name__])[0]
                what = f"row {places[len(records)]} cannot be read ({detail})"
                raise self._corrupt(shard, what) from None
        return records

    def _open(self, shard: int) -> Any:
        path = str(self.directory / self._shards[shard]["name"])
        options = "readahead_buffer_size:0,max_parallelism:0"
        return array_record_module.ArrayRecordReader(path, options)

    def _corrupt(self, shard: int, what: str) -> CorruptionError:
        return CorruptionError(
            f"{self.directory / self._shards[shard]['name']}: {what} - a cache must be as it was"
            " built - restore the file, or delete the directory so that it is built again"
        )


class RowCache:
    """An opened cache.

    `digest` is a function of the rows, the vocabulary and the sequence length, not of paths, times
    or how the rows are spread over files: two caches with the same digest train alike.
    """

    def __init__(self, directory: Path, manifest: Mapping[str, Any]):
        self.directory, self.manifest = directory, manifest
        self.digest: str = manifest["digest"]
        self.sequence_length: int = manifest["sequence_length"]
        self.vocabulary: Vocabulary = load_vocabulary(manifest["vocabulary"], directory)
        self._splits = {name: Split(name, directory, manifest) for name in manifest["splits"]}

    @classmethod
    def open(cls, directory: str | os.PathLike) -> "RowCache":
        """Returns the cache in `directory`, having checked that its files are there in full size.

        Raises UserError where there is no cache, CorruptionError where one is damaged.
        """
        directory = Path(directory)
        manifest = _read_manifest(directory)
        for shard in shards_of(manifest):
            path = directory / shard["name"]
            size = path.stat().st_size if path.exists() else None
            if size != shard["bytes"]:
                found = (
                    "is missing" if size is None else f"has {size:,} bytes, not {shard['bytes']:,}"
                )
                raise CorruptionError(
                    f"{path} {found} - a cache must be as it was built - restore the file, or"
                    " delete the directory so that it is built again"
                )
        return cls(directory, manifest)

    def split(self, name: str) -> Split:
        """Returns "train" or "validation"; the latter has no rows when nothing was held out."""
        return self._splits[name]


def _read_manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        if manifest.get("format") == FORMAT and rows_digest(manifest) == manifest["digest"]:
            return manifest
    except OSError as error:
        raise UserError(
            f"{directory} has no readable {MANIFEST} ({error.strerror}) - needed is a cache that"
            " `palmscale data build` made - correct the path"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        manifest = {"format": FORMAT}
    if manifest.get("format") != FORMAT:
        raise UserError(
            f"{path} has format {manifest.get('format')!r} - this palmscale reads format {FORMAT} -"
            " build the cache again, or use the palmscale that built it"
        )
    raise CorruptionError(
        f"{path} differs from its digest - a cache must be as it was built - restore the file, or"
        " delete the directory so that it is built again"
    )


def rows_digest(manifest: Mapping[str, Any]) -> str:
    """Returns the digest of what in a manifest determines the rows and how they are read."""
    rows = {
        name: {key: value for key, value in split.items() if key != "shards"}
        for name, split in manifest["splits"].items()
    }
    what = [manifest["format"], manifest["vocabulary"]["digest"], manifest["vocabulary"]["size"]]
    return digest_of([*what, manifest["sequence_length"], manifest["fields"], rows])


def shards_of(manifest: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields {"name", "rows", "bytes", "sha256"} of each shard of every split."""
    for split in manifest["splits"].values():
        yield from split["shards"]


def digest_of(value: Any) -> str:
    """Returns the sha256 of a value as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Returns the sha256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
