"""The row cache of a corpus: finding or building it, and verifying it."""

import functools
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from palmscale.data.bucket_caches import COPIES, BucketCaches
from palmscale.data.build.builder import Progress, build_cache
from palmscale.data.build.processes import Count, Executor, LocalProcesses
from palmscale.data.pack import CONCATENATE
from palmscale.data.row_cache import (
    FORMAT,
    MANIFEST,
    RowCache,
    damaged,
    digest_of,
    file_digest,
    files_of,
)
from palmscale.data.sources import paths
from palmscale.data.sources.corpus import SKIP, Corpus
from palmscale.data.sources.source import SourceShard
from palmscale.data.vocabulary import Vocabulary
from palmscale.errors import UserError
from palmscale.observe import log
from palmscale.storage.objects import ObjectPath
from palmscale.storage.place import place

WaitsFor = Callable[[str], None]

_HASHED_BYTES = 1 << 30  # larger corpora are identified by names and sizes, and checked by stamps
_VERIFIED_ROWS = 1024
VERIFYING = "Verifying rows"


def find_or_build(
    *,
    corpus: Corpus,
    vocabulary: Vocabulary,
    sequence_length: int,
    seed: int,
    cache_directory: str | os.PathLike | ObjectPath,
    copies: Path = COPIES,
    packing: str = CONCATENATE,
    executor: Executor = LocalProcesses(1),
    progress: Progress = lambda what, done, total: None,
    waits_for: WaitsFor = lambda what: None,
) -> RowCache:
    """Returns the cache of this text in `cache_directory`, building it if it does not exist.

    With a gs:// folder, the cache is copied from there to `copies` on this host's disk, or is built
    on the disk and copied there.

    The folder's name contains a digest of the definition (corpus, vocabulary, sequence length,
    packing, seed) and a digest of the files, so changed text gets a new cache. Up to 1 GiB of text,
    the content counts. Above, names and sizes count, and files that were touched since are
    compared by content. Opening a cache needs neither SeqIO, TensorFlow nor the text: if the text
    is absent, the only cache of the same definition is opened. A SeqIO task is identified by its
    name alone: delete its cache after changing the task.

    `waits_for` receives what is being read or written, whenever there is progress. It is not called
    for SeqIO, which may download for hours and tells nothing meanwhile.

    Raises:
        UserError: a file of a large corpus has changed, or the cache cannot be built.
    """

    def told(what: str, done: int, total: int | None) -> None:
        progress(what, done, total)
        waits_for(f"rows ({what.lower()})")

    def waiting() -> None:
        waits_for("rows that another process builds or copies")

    folder = place(cache_directory)
    bucket = BucketCaches.at(folder, copies) if isinstance(folder, ObjectPath) else None
    root = bucket.disk if bucket else folder
    definition = [FORMAT, corpus.definition(), sequence_length, packing, seed, vocabulary.digest]
    name = re.sub(r"[^A-Za-z0-9]+", "_", type(corpus.source).__name__).lower()
    prefix = f"{name}-{digest_of(definition)[:12]}"
    try:
        shards = corpus.source.shards()
        if not any(shard.path for shard in shards):
            waits_for = _ignored
        directory = root / f"{prefix}-{_content_digest(shards, waits_for)[:12]}"
    except UserError as absent:  # the text is absent, or a library that reads it
        if bucket and len(names := bucket.names(prefix)) == 1:
            bucket.fetch(names[0], told, waiting)
        return _only_built(root, prefix, absent)
    if bucket:
        bucket.fetch(directory.name, told, waiting)
    if (directory / MANIFEST).exists():
        cache = _found(directory, shards, waits_for)
    else:
        _warn_of_change(root, prefix, shards, waits_for)
        cache = build_cache(
            corpus=corpus,
            vocabulary=vocabulary,
            directory=directory,
            sequence_length=sequence_length,
            seed=seed,
            packing=packing,
            executor=executor,
            progress=told,
            waiting=waiting,
        )
        if cache.skipped:
            log.warn(f"{cache.skipped} were skipped; Corpus.on_bad_document={SKIP!r} allows it.")
    if bucket:
        bucket.publish(directory.name, told)
    _warn_of_share(cache, corpus, shards)
    return cache


def _found(directory: Path, shards: Sequence[SourceShard], waits_for: WaitsFor) -> RowCache:
    cache = RowCache.open(directory)
    if what := changed_source(cache, shards, waits_for):
        raise UserError(
            f"{what} since {directory} was built; restore the text, delete the cache to rebuild"
            f" it, or open it as it is: Data.cache={directory}."
        )
    return cache


def _warn_of_change(
    root: Path, prefix: str, shards: Sequence[SourceShard], waits_for: WaitsFor
) -> None:
    for manifest in sorted(root.glob(f"{prefix}-*/{MANIFEST}")):
        what = changed_source(RowCache.open(manifest.parent), shards, waits_for)
        log.warn(f"{what} since {manifest.parent} was built: building a new cache.")


def _warn_of_share(cache: RowCache, corpus: Corpus, shards: Sequence[SourceShard]) -> None:
    """Warns if nothing, or far more than asked, is held out."""
    asked, share = corpus.held_out_fraction, cache.held_out_share
    if not asked or any(shard.split for shard in shards):
        return
    what = f"Corpus.held_out_fraction={asked}"
    if not share:
        log.warn(
            f"nothing is held out: every document is more than twice {what} of the text, or there"
            " is only one; to evaluate, add documents or increase the fraction."
        )
    elif share > 2 * asked:
        log.warn(
            f"{cache.directory} holds out {100 * share:.3g}% of the text, more than twice {what}."
            " An earlier version may have built it: delete it to build it anew, unless a run that"
            " is to be resumed needs it."
        )


def changed_source(
    cache: RowCache, shards: Sequence[SourceShard], waits_for: WaitsFor = lambda what: None
) -> str | None:
    """Returns how the text differs from when the cache was built: "a.txt has changed"; or None.

    A file with an unchanged stamp is assumed to be unchanged.
    """
    now = {shard.name: shard for shard in shards}
    for source in cache.manifest["sources"]:
        shard = now.pop(source["name"], None)
        if shard is None:
            return f"{source['name']} is gone"
        if (shard.stamp, shard.bytes) != (source["stamp"], source["bytes"]):
            if not shard.path or _digest(shard.path, waits_for) != source["digest"]:
                return f"{shard.name} has changed"
    return f"{min(now)} is new" if now else None


def verify(
    directory: str | os.PathLike,
    executor: Executor = LocalProcesses(1),
    progress: Progress = lambda what, done, total: None,
) -> RowCache:
    """Reads a whole cache, verifies the digests of files and rows, and returns it.

    Raises:
        CorruptionError: a file differs from its digest; names it.
    """
    cache = RowCache.open(directory)
    total, done = sum(file["bytes"] for file in files_of(cache.manifest)), 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(VERIFYING, done, total)

    parts = [
        (split, number)
        for split, stored in cache.manifest["splits"].items()
        for number in range(len(stored["shards"]))
    ]
    function = functools.partial(_verify_file, directory=Path(directory))
    digests = dict(executor.each(function, parts, count))
    for split, stored in cache.manifest["splits"].items():
        of_files = [digests[split, number] for number in range(len(stored["shards"]))]
        if digest_of(of_files) != stored["rows_sha256"]:
            raise damaged(f"{cache.directory}: the rows of {split!r} differ from the manifest")
    return cache


def _verify_file(
    part: tuple[str, int], count: Count, *, directory: Path
) -> tuple[tuple[str, int], str]:
    """Returns the part (split, number of a row file) and the digest of its rows."""
    split_name, number = part
    cache = RowCache.open(directory)
    files = cache.manifest["splits"][split_name]["shards"]
    file, path = files[number], directory / files[number]["name"]
    if file_digest(path) != file["sha256"]:
        raise damaged(f"{path} differs from its sha256")
    split, first = cache.split(split_name), sum(each["rows"] for each in files[:number])
    columns: dict[str, list[np.ndarray]] = {name: [] for name, _ in split.fields}
    for start in range(first, first + file["rows"], _VERIFIED_ROWS):
        rows = split.read(np.arange(start, min(start + _VERIFIED_ROWS, first + file["rows"])))
        for name, dtype in split.fields:
            columns[name].append(rows[name].astype(dtype))
        count(file["bytes"] * len(rows["target"]) // file["rows"])
    digest = hashlib.sha256()
    for parts in columns.values():
        for values in parts:
            digest.update(values)
    return part, digest.hexdigest()


def _only_built(root: Path, prefix: str, absent: UserError) -> RowCache:
    """Returns the cache that was copied to a machine without its text or without SeqIO."""
    built = [path.parent for path in root.glob(f"{prefix}-*/{MANIFEST}")]
    if len(built) != 1:
        raise absent
    log.warn(f"Using {built[0]}, the only cache of this definition: {absent}")
    return RowCache.open(built[0])


def _digest(path: str, waits_for: WaitsFor) -> str:
    waits_for(f"the text {path}")
    return paths.digest(path, lambda: waits_for(f"the text {path}"))


def _ignored(what: str) -> None:
    del what


def _content_digest(shards: Sequence[SourceShard], waits_for: WaitsFor) -> str:
    sizes: list[Any] = [[shard.name, shard.bytes] for shard in shards]
    if sum(shard.bytes for shard in shards) > _HASHED_BYTES:
        return digest_of(sizes)
    return digest_of(
        [
            [*size, _digest(shard.path, waits_for) if shard.path else shard.stamp]
            for size, shard in zip(sizes, shards)
        ]
    )
