"""The row cache of a corpus: found, or built once; verified; and compared with its sources."""

import functools
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from palmscale.data import paths
from palmscale.data.build import Progress, build_cache
from palmscale.data.pack import CONCATENATE
from palmscale.data.processes import Count, Executor, LocalProcesses
from palmscale.data.rows import (
    FORMAT,
    MANIFEST,
    RowCache,
    digest_of,
    file_digest,
    shards_of,
)
from palmscale.data.sources import Corpus, Shard
from palmscale.data.vocab import Vocabulary
from palmscale.errors import CorruptionError, UserError
from palmscale.observe import log

_HASHED_BYTES = 1 << 30  # larger corpora are known by names and sizes, and checked by stamps
_VERIFIED_ROWS = 1024
VERIFYING = "Verifying rows"


def open_or_build(
    *,
    corpus: Corpus,
    vocabulary: Vocabulary,
    sequence_length: int,
    seed: int,
    cache_directory: str | os.PathLike,
    packing: str = CONCATENATE,
    executor: Executor = LocalProcesses(1),
    progress: Progress = lambda what, done, total: None,
) -> RowCache:
    """Returns the cache of this text under `cache_directory`, building it if it is not there.

    The directory's name holds the digest of the definition (corpus, vocabulary, sequence length,
    packing, seed) and that of the files, so changed text gets a new cache: by content up to a
    GiB; above, by names and sizes, and a file that was touched since is compared by content.
    Opening a cache needs neither SeqIO nor TensorFlow, nor the text: where the text is absent, the
    only cache of the same definition is opened. A SeqIO task is known by its name alone: after
    changing what the name stands for, delete its cache.

    Raises UserError where a file of a large corpus has changed.
    """
    root = Path(cache_directory).expanduser()
    definition = [FORMAT, corpus.definition(), sequence_length, packing, seed, vocabulary.digest]
    name = re.sub(r"[^A-Za-z0-9]+", "_", type(corpus.source).__name__).lower()
    prefix = f"{name}-{digest_of(definition)[:12]}"
    try:
        shards = corpus.source.shards()
        directory = root / f"{prefix}-{_content_digest(shards)[:12]}"
    except UserError as absent:  # the text, or what its source needs to be installed
        return _only_built(root, prefix, absent)
    if (directory / MANIFEST).exists():
        cache = RowCache.open(directory)
        if what := changed_source(cache, shards):
            raise UserError(
                f"{what} since {directory} was built from it - rows and text must agree - restore"
                f" it, delete the cache, or use it as it is: CACHE={directory}"
            )
        return cache
    for manifest in sorted(root.glob(f"{prefix}-*/{MANIFEST}")):
        what = changed_source(RowCache.open(manifest.parent), shards)
        log.warn(f"{what} since {manifest.parent} was built: building anew")
    return build_cache(
        corpus=corpus,
        vocabulary=vocabulary,
        directory=directory,
        sequence_length=sequence_length,
        seed=seed,
        packing=packing,
        executor=executor,
        progress=progress,
    )


def changed_source(cache: RowCache, shards: Sequence[Shard]) -> str | None:
    """Returns what is not as it was when the cache was built: "a.txt has changed"; None: nothing.

    A file whose stamp is the same is taken to be the same.
    """
    now = {shard.name: shard for shard in shards}
    for source in cache.manifest["sources"]:
        shard = now.pop(source["name"], None)
        if shard is None:
            return f"{source['name']} is gone"
        if (shard.stamp, shard.bytes) != (source["stamp"], source["bytes"]):
            if not shard.path or paths.digest(shard.path) != source["digest"]:
                return f"{shard.name} has changed"
    return f"{min(now)} is new" if now else None


def verify(
    directory: str | os.PathLike,
    executor: Executor = LocalProcesses(1),
    progress: Progress = lambda what, done, total: None,
) -> RowCache:
    """Returns the cache, having read it all: each file's sha256, each row's sum, their digest.

    Raises CorruptionError naming a file that differs.
    """
    cache = RowCache.open(directory)
    total, done = sum(shard["bytes"] for shard in shards_of(cache.manifest)), 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(VERIFYING, done, total)

    parts = [
        (split, number)
        for split, stored in cache.manifest["splits"].items()
        for number in range(len(stored["shards"]))
    ]
    function = functools.partial(_verify_shard, directory=Path(directory))
    digests = dict(executor.each(function, parts, count))
    for split, stored in cache.manifest["splits"].items():
        of_shards = [digests[split, number] for number in range(len(stored["shards"]))]
        if digest_of(of_shards) != stored["rows_sha256"]:
            raise CorruptionError(
                f"{cache.directory}: the rows of {split!r} differ from the manifest"
            )
    return cache


def _verify_shard(
    part: tuple[str, int], count: Count, *, directory: Path
) -> tuple[tuple[str, int], str]:
    """Returns the part, and the digest of its rows."""
    split_name, number = part
    cache = RowCache.open(directory)
    shards = cache.manifest["splits"][split_name]["shards"]
    shard, path = shards[number], directory / shards[number]["name"]
    if file_digest(path) != shard["sha256"]:
        raise CorruptionError(
            f"{path} differs from its sha256 - a cache must be as it was built - restore the"
            " file, or delete the directory so that it is built again"
        )
    split, first = cache.split(split_name), sum(s["rows"] for s in shards[:number])
    columns: dict[str, list[np.ndarray]] = {name: [] for name, _ in split.fields}
    for start in range(first, first + shard["rows"], _VERIFIED_ROWS):
        rows = split.read(np.arange(start, min(start + _VERIFIED_ROWS, first + shard["rows"])))
        for name, dtype in split.fields:
            columns[name].append(rows[name].astype(dtype))
        count(shard["bytes"] * len(rows["target"]) // shard["rows"])
    digest = hashlib.sha256()
    for parts in columns.values():
        for values in parts:
            digest.update(values)
    return part, digest.hexdigest()


def _only_built(root: Path, prefix: str, absent: UserError) -> RowCache:
    # What a cache that was copied to a machine without its text, or without SeqIO, is found by.
    built = [path.parent for path in root.glob(f"{prefix}-*/{MANIFEST}")]
    if len(built) != 1:
        raise absent
    log.warn(f"using {built[0]}, the only cache of this definition: {absent}")
    return RowCache.open(built[0])


def _content_digest(shards: Sequence[Shard]) -> str:
    sizes: list[Any] = [[shard.name, shard.bytes] for shard in shards]
    if sum(shard.bytes for shard in shards) > _HASHED_BYTES:
        return digest_of(sizes)
    return digest_of(
        [
            [*size, paths.digest(shard.path) if shard.path else shard.stamp]
            for size, shard in zip(sizes, shards)
        ]
    )
