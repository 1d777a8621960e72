"""A corpus as fixed-length rows on disk: opened, or built once and verified; rows.py reads it."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module

from palmscale.data import sources, tasks
from palmscale.data.pack import encode_row, pack, shuffled, token_dtype
from palmscale.data.rows import (
    FORMAT,
    MANIFEST,
    RowCache,
    digest_of,
    file_digest,
    rows_digest,
    shards_of,
)
from palmscale.data.sources import TRAIN, VALIDATION, Corpus
from palmscale.data.vocab import Vocabulary
from palmscale.errors import CorruptionError, UserError
from palmscale.observe import log

Progress = Callable[[int, int | None], None]  # (UTF-8 bytes done, of how many, None where unknown)

_SHARD_BYTES = 1 << 28
_HASHED_BYTES = 1 << 30  # larger corpora are recognized by file names and sizes alone


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

    The directory's name holds the digest of the definition (corpus, vocabulary, sequence length,
    seed) and that of the files' content, so changed text gets a new cache. Opening one needs
    neither SeqIO nor TensorFlow, nor the text: where the text is absent, the only cache of the same
    definition is opened. A mixture or task is known by its name alone, and brings its own
    vocabulary instead of `vocabulary`: after changing what the name stands for, delete its cache.
    """
    root = Path(cache_directory).expanduser()
    definition = [FORMAT, corpus.definition(), sequence_length, seed]
    if corpus.kind != "mixture_or_task":
        definition.append(vocabulary.digest)
    name = re.sub(r"[^A-Za-z0-9_.]+", "_", corpus.mixture_or_task or corpus.kind)
    prefix = f"{name}-{digest_of(definition)[:12]}"
    try:
        directory = root / f"{prefix}-{_content_digest(corpus)[:12]}"
    except UserError as absent:
        return _only_built(root, prefix, absent)
    if (directory / MANIFEST).exists():
        return RowCache.open(directory)
    log.say("Building the row cache; SeqIO and TensorFlow take some seconds to start.")
    try:
        tasks.import_seqio()
    except UserError as absent:
        return _only_built(root, prefix, absent)
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
    """Returns the cache it builds in `directory` from each split's (token ids, UTF-8 bytes).

    The directory appears whole or not at all. Of two builders at once the second waits and takes
    the first one's. `corpus` and `files` only go into the manifest; the files' sizes are progress's
    total. A split is held in memory while it is shuffled. Raises UserError when training would have
    no row.
    """
    directory = Path(directory)
    if sequence_length < 1:
        raise UserError(
            f"SEQUENCE_LENGTH={sequence_length} - a row needs at least one token - use for example"
            " 2048"
        )
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with _alone(directory), _appearing(directory) as partial:
            if partial is not None:
                writer = _Writer(partial, vocabulary, sequence_length, seed, progress, files)
                splits = {name: writer.split(name, documents[name]) for name in documents}
                vocabulary.save(partial)
                manifest = {
                    "format": FORMAT,
                    "corpus": dict(corpus or {}),
                    "files": files or [],
                    "vocabulary": vocabulary.description(),
                    "sequence_length": sequence_length,
                    "token_dtype": token_dtype(vocabulary.size).str,
                    "seed": seed,
                    "splits": splits,
                }
                manifest["digest"] = rows_digest(manifest)
                (partial / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    except OSError as error:
        raise UserError(
            f"the cache {directory} cannot be written ({error.strerror or error}) - needed is a"
            " directory with room - correct CACHE_DIRECTORY"
        ) from error
    return RowCache.open(directory)


def verify(directory: str | os.PathLike, progress: Progress | None = None) -> RowCache:
    """Returns the cache, having read it all: each file's sha256, each row's sum, their digest.

    Raises CorruptionError naming the first file that differs. `progress` counts the shards' bytes.
    """
    cache = RowCache.open(directory)
    total, done = sum(shard["bytes"] for shard in shards_of(cache.manifest)), 0
    for shard in shards_of(cache.manifest):
        path = cache.directory / shard["name"]
        if file_digest(path) != shard["sha256"]:
            raise CorruptionError(
                f"{path} differs from its sha256 - a cache must be as it was built - restore the"
                " file, or delete the directory so that it is built again"
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
            raise CorruptionError(
                f"{cache.directory}: the rows of {name!r} differ from the manifest"
            )
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
                    f"a document of split {name!r} has token ids from {ids.min()} to {ids.max()} -"
                    f" the vocabulary has {self._vocabulary.size} - correct the task's"
                    " preprocessors"
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
                "sha256": file_digest(path),
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
    if (directory / MANIFEST).exists():
        yield None
        return
    partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}.partial-", dir=directory.parent))
    try:
        yield partial
        partial.chmod(0o755)  # mkdtemp's 0o700 would keep the cache from other users
        try:
            partial.rename(directory)
        except OSError:
            if not (directory / MANIFEST).exists():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _only_built(root: Path, prefix: str, absent: UserError) -> RowCache:
    # What a cache that was copied to a machine without its text, or without SeqIO, is found by.
    built = [path.parent for path in root.glob(f"{prefix}-*/{MANIFEST}")]
    if len(built) != 1:
        raise absent
    log.warn(f"using {built[0]}, the only cache of this definition: {absent}")
    return RowCache.open(built[0])


def _content_digest(corpus: Corpus) -> str:
    files = sources.find_files(corpus)
    sizes = [[file.name, os.path.getsize(file.path)] for file in files]
    small = sum(size for _, size in sizes) <= _HASHED_BYTES
    return digest_of(sources.fingerprint(corpus) if small else sizes)
