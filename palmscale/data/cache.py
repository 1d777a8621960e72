"""A corpus as fixed-length rows on disk: built once, read at random, every row checked on reading.

A cache is a directory: manifest.json, the shards (ArrayRecord, a row a record) and the vocabulary's files.
It holds all that training needs, so it may be copied to where TensorFlow and SeqIO are absent.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module

from palmscale.data import sources, tasks
from palmscale.data.pack import decode_row, encode_row, pack, shuffled, token_dtype
from palmscale.data.sources import TRAIN, VALIDATION, Corpus
from palmscale.data.vocab import Vocabulary, load_vocabulary
from palmscale.errors import CorruptionError, UserError

Progress = Callable[[int, int | None], None]  # (UTF-8 bytes done, of how many, None where unknown)

_FORMAT = 1
_MANIFEST = "manifest.json"
_SHARD_BYTES = 1 << 28
_HASHED_BYTES = 1 << 30  # larger corpora are recognized by file names and sizes alone


class Split:
    """The rows of one split of a cache. Any number of threads may read at once.

    `tokens` are those in rows, eods included; `utf8_bytes` the text of all documents, of which the last
    `dropped_tail_tokens` are in no row.
    """

    def __init__(self, name: str, directory: Path, manifest: Mapping[str, Any]):
        stored = manifest["splits"][name]
        self.name, self.directory = name, directory
        self.sequence_length: int = manifest["sequence_length"]
        self.num_rows: int = stored["rows"]
        self.documents: int = stored["documents"]
        self.tokens: int = stored["tokens"]
        self.utf8_bytes: int = stored["utf8_bytes"]
        self.dropped_tail_tokens: int = stored["dropped_tail_tokens"]
        self._dtype = np.dtype(manifest["token_dtype"])
        self._shards = stored["shards"]
        self._starts = np.cumsum([0] + [shard["rows"] for shard in self._shards])
        self._readers: list[Any] = [None] * len(self._shards)
        self._locks = [threading.Lock() for _ in self._shards]

    @property
    def bytes_per_token(self) -> float:
        """The text's UTF-8 bytes per token, eods counted as tokens: turns nats a token into bits a byte."""
        return self.utf8_bytes / max(1, self.tokens + self.dropped_tail_tokens)

    def read(self, row_indices: np.ndarray) -> np.ndarray:
        """Returns the rows [n, sequence_length], int32, in the order asked for.

        Raises CorruptionError naming the shard and row when a row differs from its checksum, and
        IndexError when there is no such row.
        """
        row_indices = np.asarray(row_indices, dtype=np.int64)
        if row_indices.size and not 0 <= row_indices.min() <= row_indices.max() < self.num_rows:
            raise IndexError(f"rows {row_indices} are not all in 0 .. {self.num_rows - 1}")
        rows = np.empty((len(row_indices), self.sequence_length), dtype=np.int32)
        shard_of = np.searchsorted(self._starts, row_indices, side="right") - 1
        for shard in np.unique(shard_of):
            places = np.flatnonzero(shard_of == shard)
            wanted = row_indices[places]
            records = self._records(int(shard), (wanted - self._starts[shard]).tolist())
            for place, row, record in zip(places, wanted.tolist(), records):
                try:
                    rows[place] = decode_row(record, row, self._dtype)
                except (CorruptionError, ValueError):
                    raise self._corrupt(int(shard), f"row {row} differs from its checksum") from None
        return rows

    def _records(self, shard: int, places: list[int]) -> list[bytes]:
        with self._locks[shard]:  # a reader has a position, and must not be shared while it reads
            try:
                if self._readers[shard] is None:
                    self._readers[shard] = array_record_module.ArrayRecordReader(
                        str(self.directory / self._shards[shard]["name"]),
                        "readahead_buffer_size:0,max_parallelism:0",
                    )
                return self._readers[shard].read(places)
            except RuntimeError as error:
                detail = str(error).splitlines()[0]
                row = self._starts[shard] + self._first_unreadable(shard, places)
                raise self._corrupt(shard, f"row {row} cannot be read ({detail})") from None

    def _first_unreadable(self, shard: int, places: list[int]) -> int:
        for place in places if self._readers[shard] is not None else ():
            try:
                self._readers[shard].read([place])
            except RuntimeError:
                return place
        return places[0]

    def _corrupt(self, shard: int, what: str) -> CorruptionError:
        return CorruptionError(
            f"{self.directory / self._shards[shard]['name']}: {what} - a cache must be as it was built -"
            " restore the file, or delete the directory so that it is built again"
        )


class RowCache:
    """An opened cache.

    `digest` is a function of the rows, the vocabulary and the sequence length, not of paths, times or
    how the rows are spread over files: two caches with the same digest train alike.
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
        for _, shard in _shards_of(manifest):
            path = directory / shard["name"]
            size = path.stat().st_size if path.exists() else None
            if size != shard["bytes"]:
                found = "is missing" if size is None else f"has {size:,} bytes, not {shard['bytes']:,}"
                raise CorruptionError(
                    f"{path} {found} - a cache must be as it was built - restore the file, or delete the"
                    " directory so that it is built again"
                )
        return cls(directory, manifest)

    def split(self, name: str) -> Split:
        """Returns "train" or "validation"; the latter has no rows when nothing was held out."""
        return self._splits[name]


def open_or_build(
    *,
    corpus: Corpus,
    vocabulary: Vocabulary,
    sequence_length: int,
    seed: int,
    cache_directory: str | os.PathLike,
    progress: Progress | None = None,
) -> RowCache:
    """Returns the cache of this text under `cache_directory`, building it if it is not there.

    The directory's name holds the digest of the definition (corpus, vocabulary, sequence length, seed)
    and that of the files' content, so changed text gets a new cache. Opening one needs neither SeqIO nor
    TensorFlow, nor the text: where the text is absent, the only cache of the same definition is opened.
    A mixture or task is known by its name alone, and brings its own vocabulary instead of `vocabulary`:
    after changing what the name stands for, delete its cache.
    """
    root = Path(cache_directory).expanduser()
    definition = [_FORMAT, corpus.definition(), sequence_length, seed]
    if corpus.kind != "mixture_or_task":
        definition.append(vocabulary.digest)
    name = re.sub(r"[^A-Za-z0-9_.]+", "_", corpus.mixture_or_task or corpus.kind)
    prefix = f"{name}-{_digest(definition)[:12]}"
    try:
        directory = root / f"{prefix}-{_content_digest(corpus)[:12]}"
        if (directory / _MANIFEST).exists():
            return RowCache.open(directory)
        tasks.import_seqio()
    except UserError as error:
        built = [path.parent for path in root.glob(f"{prefix}-*/{_MANIFEST}")]
        if len(built) != 1:
            raise
        warnings.warn(f"using the cache {built[0]}, the only one of this definition: {error}", stacklevel=2)
        return RowCache.open(built[0])
    vocabulary = tasks.vocabulary_of(corpus, vocabulary)
    splits = {s: tasks.documents(corpus, vocabulary, s) for s in (TRAIN, VALIDATION)}
    return build_cache(
        documents=splits,
        vocabulary=vocabulary,
        directory=directory,
        sequence_length=sequence_length,
        seed=seed,
        corpus=corpus.definition(),
        files=sources.fingerprint(corpus),
        progress=progress,
    )


def build_cache(
    *,
    documents: Mapping[str, Iterable[tuple[np.ndarray, int]]],
    vocabulary: Vocabulary,
    directory: str | os.PathLike,
    sequence_length: int,
    seed: int,
    corpus: Mapping[str, Any] | None = None,
    files: list[dict[str, Any]] | None = None,
    progress: Progress | None = None,
) -> RowCache:
    """Returns the cache it builds in `directory` from each split's (token ids, UTF-8 bytes) documents.

    The directory appears whole or not at all. Of two builders at once the second waits and takes the
    first one's. `corpus` and `files` only go into the manifest; the files' sizes are progress's total.
    A split is held in memory while it is shuffled. Raises UserError when training would have no row.
    """
    directory = Path(directory)
    if sequence_length < 1:
        raise UserError(
            f"SEQUENCE_LENGTH={sequence_length} - a row needs at least one token - use for example 2048"
        )
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with _alone(directory), _appearing(directory) as partial:
            if partial is not None:
                writer = _Writer(partial, vocabulary, sequence_length, seed, progress, files)
                splits = {name: writer.split(name, documents[name]) for name in documents}
                vocabulary.save(partial)
                manifest = {
                    "format": _FORMAT,
                    "corpus": dict(corpus or {}),
                    "files": files or [],
                    "vocabulary": vocabulary.description(),
                    "sequence_length": sequence_length,
                    "token_dtype": token_dtype(vocabulary.size).str,
                    "seed": seed,
                    "splits": splits,
                }
                manifest["digest"] = _rows_digest(manifest)
                (partial / _MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    except OSError as error:
        raise UserError(
            f"the cache {directory} cannot be written ({error.strerror}) - needed is a directory with room"
            " - correct CACHE_DIRECTORY"
        ) from error
    return RowCache.open(directory)


def verify(directory: str | os.PathLike, progress: Progress | None = None) -> RowCache:
    """Returns the cache, having read all of it: every file's sha256, every row's checksum and their digest.

    Raises CorruptionError naming the first file that differs. `progress` counts the shards' bytes.
    """
    cache = RowCache.open(directory)
    total, done = sum(shard["bytes"] for _, shard in _shards_of(cache.manifest)), 0
    for _, shard in _shards_of(cache.manifest):
        path = cache.directory / shard["name"]
        if _file_digest(path) != shard["sha256"]:
            raise CorruptionError(
                f"{path} differs from its sha256 - a cache must be as it was built - restore the file, or"
                " delete the directory so that it is built again"
            )
        done += shard["bytes"]
        if progress:
            progress(done, total)
    for name, stored in cache.manifest["splits"].items():
        split, digest = cache.split(name), hashlib.sha256()
        for first in range(0, split.num_rows, 1024):
            rows = split.read(np.arange(first, min(first + 1024, split.num_rows)))
            digest.update(rows.astype(cache.manifest["token_dtype"]).tobytes())
        if digest.hexdigest() != stored["rows_sha256"]:
            raise CorruptionError(f"{cache.directory}: the rows of {name!r} differ from the manifest")
    return cache


class _Writer:
    def __init__(self, directory, vocabulary, sequence_length, seed, progress, files):
        self._directory, self._vocabulary, self._seed = directory, vocabulary, seed
        self._length, self._dtype = sequence_length, token_dtype(vocabulary.size)
        self._progress = progress or (lambda done, total: None)
        self._total, self._done = sum(file["bytes"] for file in files or []) or None, 0

    def split(self, name: str, documents: Iterable[tuple[np.ndarray, int]]) -> dict[str, Any]:
        """Writes the split's shards; returns its part of the manifest."""
        held, utf8_bytes, given = [], 0, 0
        for ids, text_bytes in documents:
            if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < self._vocabulary.size:
                raise UserError(
                    f"a document of split {name!r} has token ids from {ids.min()} to {ids.max()} - the"
                    f" vocabulary has {self._vocabulary.size} - correct the task's preprocessors"
                )
            held.append(ids.astype(self._dtype))
            utf8_bytes, given = utf8_bytes + text_bytes, given + len(ids) + 1
            self._done += text_bytes
            self._progress(self._done, self._total)
        if name == TRAIN and given < self._length:
            raise UserError(
                f"the text to train on has {given:,} tokens, fewer than one row of"
                f" SEQUENCE_LENGTH={self._length:,} - add text, or make SEQUENCE_LENGTH smaller"
            )
        blocks = pack(
            shuffled(held, seed=self._seed),
            eod_id=self._vocabulary.eod_id,
            sequence_length=self._length,
        )
        digest = hashlib.sha256()
        shards = list(self._shards(name, blocks, digest))
        rows = sum(shard["rows"] for shard in shards)
        return {
            "rows": rows,
            "documents": len(held),
            "tokens": rows * self._length,
            "utf8_bytes": utf8_bytes,
            "dropped_tail_tokens": given - rows * self._length,
            "rows_sha256": digest.hexdigest(),
            "shards": shards,
        }

    def _shards(self, name: str, blocks: Iterator[np.ndarray], digest) -> Iterator[dict[str, Any]]:
        rows = (row for block in blocks for row in block)
        per_shard = max(1, _SHARD_BYTES // (self._length * self._dtype.itemsize))
        first, row = 0, next(rows, None)
        while row is not None:
            path = self._directory / f"{name}-{first // per_shard:05d}.arrayrecord"
            writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
            number = first
            while row is not None and number < first + per_shard:
                writer.write(encode_row(row, number, self._dtype))
                digest.update(row.astype(self._dtype).tobytes())
                number, row = number + 1, next(rows, None)
            writer.close()
            yield {
                "name": path.name,
                "rows": number - first,
                "bytes": path.stat().st_size,
                "sha256": _file_digest(path),
            }
            first = number


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keeps a second builder of the same cache waiting, where the file system has locks."""
    try:
        import fcntl
    except ImportError:  # not POSIX
        yield
        return
    with open(directory.parent / f".{directory.name}.lock", "w") as lock:
        with contextlib.suppress(OSError):  # a file system without locks: both build, one is kept
            fcntl.flock(lock, fcntl.LOCK_EX)
            for left in directory.parent.glob(f".{directory.name}.partial-*"):
                shutil.rmtree(left, ignore_errors=True)  # whoever built it was killed
        yield


@contextlib.contextmanager
def _appearing(directory: Path) -> Iterator[Path | None]:
    """Gives a directory that becomes `directory` in the end; None when that is there already."""
    if (directory / _MANIFEST).exists():
        yield None
        return
    partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}.partial-", dir=directory.parent))
    try:
        yield partial
        partial.chmod(0o755)  # mkdtemp's 0o700 would keep the cache from other users
        try:
            partial.rename(directory)
        except OSError:
            if not (directory / _MANIFEST).exists():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _read_manifest(directory: Path) -> dict[str, Any]:
    path = directory / _MANIFEST
    try:
        manifest = json.loads(path.read_text())
        if manifest.get("format") == _FORMAT and _rows_digest(manifest) == manifest["digest"]:
            return manifest
    except OSError as error:
        raise UserError(
            f"{directory} has no readable {_MANIFEST} ({error.strerror}) - needed is a cache that"
            " `palmscale data build` made - correct the path"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        manifest = {"format": _FORMAT}
    if manifest.get("format") != _FORMAT:
        raise UserError(
            f"{path} has format {manifest.get('format')!r} - this palmscale reads format {_FORMAT} - build"
            " the cache again, or use the palmscale that built it"
        )
    raise CorruptionError(
        f"{path} differs from its digest - a cache must be as it was built - restore the file, or delete"
        " the directory so that it is built again"
    )


def _rows_digest(manifest: Mapping[str, Any]) -> str:
    rows = {
        name: {key: value for key, value in split.items() if key != "shards"}
        for name, split in manifest["splits"].items()
    }
    what = [manifest["format"], manifest["vocabulary"]["digest"], manifest["vocabulary"]["size"]]
    return _digest([*what, manifest["sequence_length"], manifest["token_dtype"], rows])


def _shards_of(manifest: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, split in manifest["splits"].items():
        for shard in split["shards"]:
            yield name, shard


def _content_digest(corpus: Corpus) -> str:
    files = sources.find_files(corpus)
    sizes = [[file.name, os.path.getsize(file.path)] for file in files]
    small = sum(size for _, size in sizes) <= _HASHED_BYTES
    return _digest(sources.fingerprint(corpus) if small else sizes)


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
