"""The row caches that a run reads, opened or built on first use."""

import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from palmscale.data import cache as caches
from palmscale.data.bucket_caches import COPIES, fetched
from palmscale.data.build.processes import Executor, LocalProcesses
from palmscale.data.dataset import Data
from palmscale.data.mixture import Mixed, check_alike, rates
from palmscale.data.pack import CONCATENATE, SEGMENTS
from palmscale.data.row_cache import MANIFEST, RowCache, read_manifest
from palmscale.data.sources.source import TRAIN, VALIDATION
from palmscale.data.stream import BatchSchedule, NumberedRows, RowStream, Shuffled
from palmscale.data.vocabulary import (
    ByteVocabulary,
    SentencePieceVocabulary,
    Vocabulary,
    load_vocabulary,
    vocabulary_named,
)
from palmscale.errors import UserError
from palmscale.observe import log, progress
from palmscale.observe.load_noise import without_load_noise
from palmscale.storage.objects import ObjectPath
from palmscale.storage.place import Place, on_disk, place

USER_CACHES = Path("~/.cache/palmscale")  # where XDG_CACHE_HOME is not set


def open_caches(
    data: Data,
    *,
    executor: Executor | None = None,
    user_caches: Path = USER_CACHES,
    waits_for: caches.WaitsFor = lambda what: None,
) -> dict[str, RowCache]:
    """Returns the caches of `data` by component; without components, its one cache, named "".

    A cache that does not exist is built by `executor`, by default with one process per core, in
    `data.cache_directory`, or below `user_caches` if that is None. `waits_for` receives what is
    being read or written, whenever there is progress.

    Raises:
        UserError: a cache cannot be opened or built, has another sequence length than
            `data.sequence_length`, or cannot be mixed with the others; names the component.
    """
    for _, weights in data.weight_stages():
        rates(weights)  # before text is read
    opened = {}
    for name, part in data.parts().items():
        try:
            cache = opened[name] = open_or_build(
                part, executor=executor, user_caches=user_caches, waits_for=waits_for
            )
        except UserError as error:
            if not name:
                raise
            raise type(error)(f"the component {name}: {error}") from error
        train, held_out = (cache.split(split).num_rows for split in (TRAIN, VALIDATION))
        log.say(
            f"Rows of {cache.sequence_length} tokens: {train:,} to train on, {held_out:,} held out"
            f" ({100 * cache.held_out_share:.3g}% of the text), in {cache.directory}."
        )
        if cache.too_long:
            log.warn(f"{cache.too_long}; to keep them whole, increase Data.sequence_length.")
    check_alike(opened)
    return opened


def open_or_build(
    data: Data,
    *,
    executor: Executor | None = None,
    user_caches: Path = USER_CACHES,
    waits_for: caches.WaitsFor = lambda what: None,
) -> RowCache:
    """Returns the cache of `data`, which has no components; see `open_caches`."""
    if data.cache is not None:
        cache = open_cache(data.cache, user_caches=user_caches, waits_for=waits_for)
        if cache.sequence_length != data.sequence_length:
            raise UserError(
                f"Data.cache={data.cache} has rows of {cache.sequence_length} tokens, but"
                f" Data.sequence_length={data.sequence_length}; make them equal."
            )
        return cache
    _import(data.import_modules)
    with progress.bars() as show_progress:
        return caches.find_or_build(
            corpus=data.corpus,
            vocabulary=vocabulary_of(data),
            sequence_length=data.sequence_length,
            packing=data.packing,
            seed=data.seed,
            cache_directory=cache_directory(data, user_caches),
            copies=user_caches / COPIES.name,
            executor=executor or local_processes(None, data.import_modules),
            progress=show_progress,
            waits_for=waits_for,
        )


def cache_directory(data: Data, user_caches: Path = USER_CACHES) -> Place:
    """Returns the folder in which the caches of `data` are found or built."""
    return place(data.cache_directory or user_caches / "data")


def open_cache(
    folder: str | os.PathLike,
    *,
    user_caches: Path = USER_CACHES,
    waits_for: caches.WaitsFor = lambda what: None,
) -> RowCache:
    """Returns the built cache in a folder, or in gs://BUCKET/PATH, which is copied to the disk.

    The options are those of `open_caches`.

    Raises:
        UserError: there is no cache, or it cannot be copied.
        CorruptionError: the cache is damaged.
    """
    where = place(folder)
    if isinstance(where, ObjectPath):
        with progress.bars() as show_progress:

            def told(what: str, done: int, total: int | None) -> None:
                show_progress(what, done, total)
                waits_for(f"rows ({what.lower()})")

            where = fetched(
                where,
                told,
                lambda: waits_for("rows that another process copies"),
                copies=user_caches / COPIES.name,
            )
    return RowCache.open(where)


def _import(modules: Sequence[str]) -> None:
    for module in modules:
        try:
            with without_load_noise():
                importlib.import_module(module)
        except Exception as error:  # whatever a user's own module raises
            raise UserError(
                f"Data.import_modules contains {module!r}, which cannot be imported ({error});"
                " correct it, or start where the module can be found."
            ) from None


def local_processes(count: int | None, import_modules: Sequence[str] = ()) -> LocalProcesses:
    """Returns an executor with `count` processes, or one per core if None.

    The processes import `import_modules` first.
    """
    return LocalProcesses(count or len(os.sched_getaffinity(0)), import_modules)


def vocabulary_of(data: Data) -> Vocabulary:
    """Returns the vocabulary that `data` describes; does not open or build its rows.

    Raises:
        UserError: its file cannot be read.
    """
    if data.cache is not None:
        folder = place(data.cache)
        description = read_manifest(folder)["vocabulary"]
        with on_disk(folder / description.get("file", MANIFEST)) as file:
            return load_vocabulary(description, file.parent)
    if data.vocabulary is not None:
        return vocabulary_named(data.vocabulary)
    if data.sentencepiece_model is None:
        return ByteVocabulary()
    return SentencePieceVocabulary(data.sentencepiece_model)


def is_packed(data: Data) -> bool:
    """Returns whether rows contain several documents, each attending only to itself."""
    if data.cache is not None:
        return read_manifest(place(data.cache))["packing"] != CONCATENATE
    return data.packing == SEGMENTS


def training_rows(
    data: Data, opened: Mapping[str, RowCache], schedule: BatchSchedule
) -> NumberedRows:
    """Returns the rows to train on, in training order.

    `opened` are the caches that `open_caches` returned.
    """
    splits = {name: cache.split(TRAIN) for name, cache in opened.items()}
    if not data.components:
        return Shuffled(splits[""], seed=data.seed)
    stages = [(schedule.rows_before(step), weights) for step, weights in data.weight_stages()]
    return Mixed(splits, stages, seed=data.seed)


def training_stream(
    data: Data, opened: Mapping[str, RowCache], schedule: BatchSchedule
) -> RowStream:
    """Returns the batches to train on; see `training_rows`."""
    return RowStream(rows=training_rows(data, opened, schedule), schedule=schedule)
