"""The row caches of a run, opened or built on first use; and the commands that build and verify."""

import argparse
import contextlib
import os
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from palmscale.cli import gin_config, tables
from palmscale.cli.run import Data, Run, load_run
from palmscale.data import cache as caches
from palmscale.data.beam import BeamPipelines
from palmscale.data.build import Progress
from palmscale.data.cache import RowCache
from palmscale.data.mixture import Mixed, check_alike
from palmscale.data.pack import SEGMENTS
from palmscale.data.processes import Executor, LocalProcesses
from palmscale.data.sources import TRAIN, VALIDATION
from palmscale.data.stream import NumberedRows, Shuffled
from palmscale.data.vocab import ByteVocabulary, SentencePieceVocabulary, Vocabulary
from palmscale.errors import UserError
from palmscale.observe import log, progress


def open_rows(data: Data, *, executor: Executor | None = None) -> RowCache:
    """Returns the cache that `data` names or describes.

    One that is not there is built by `executor`, by default a process for each core.

    Raises:
        UserError: its sequence length is not the one asked for.
    """
    cache = _open_or_build(data, executor)
    train, held_out = (cache.split(name).num_rows for name in (TRAIN, VALIDATION))
    log.say(
        f"Rows of {cache.sequence_length} tokens: {train:,} to train on, {held_out:,} held out, "
        f"in {cache.directory}."
    )
    return cache


def open_caches(data: Data, *, executor: Executor | None = None) -> dict[str, RowCache]:
    """Returns the caches of a mixture by component, or that of a corpus or cache, named "".

    Raises:
        UserError: they cannot be mixed.
    """
    opened = {name: open_rows(part, executor=executor) for name, part in data.parts().items()}
    check_alike(opened)
    return opened


def vocabulary_of(data: Data) -> Vocabulary:
    """Returns the vocabulary that `data` describes, without its rows.

    Raises:
        UserError: the SentencePiece model cannot be read.
    """
    if data.cache is not None:
        return RowCache.open(data.cache).vocabulary
    if data.sentencepiece_model is None:
        return ByteVocabulary()
    return SentencePieceVocabulary(data.sentencepiece_model)


def is_packed(data: Data) -> bool:
    """Returns whether rows hold several documents side by side, each on its own."""
    if data.cache is not None:
        return RowCache.open(data.cache).split(TRAIN).is_packed
    return data.packing == SEGMENTS


def train_rows(run: Run, opened: Mapping[str, RowCache]) -> NumberedRows:
    """Returns the rows that the run trains on, in its order, of the caches of `open_caches`."""
    splits = {name: cache.split(TRAIN) for name, cache in opened.items()}
    if not run.data.components:
        return Shuffled(splits[""], seed=run.data.seed)
    stages = [
        (run.batch_schedule.rows_before(step), weights)
        for step, weights in run.data.weight_stages()
    ]
    return Mixed(splits, stages, seed=run.data.seed)


def build(args: argparse.Namespace) -> None:
    """`palmscale data build`: builds what is not there of the caches, and prints what they hold."""
    log.set_up()
    data = load_run(args.gin_file, args.gin_bindings).data
    executor: Executor | None = None
    if args.beam is not None:
        executor = BeamPipelines(shlex.split(args.beam), Path(data.cache_directory).expanduser())
    elif args.processes is not None:
        executor = _local(args.processes)
    for name, cache in open_caches(data, executor=executor).items():
        print(f"{name}: {cache.directory}\n" if name else f"{cache.directory}\n")
        _print_splits(cache)
        print()
        tables.print_facts(_facts(cache))
        print()


def verify(args: argparse.Namespace) -> None:
    """`palmscale data verify`: reads the whole caches; a difference names its file."""
    log.set_up()
    if args.cache is not None:
        named = [RowCache.open(Path(args.cache))]
    else:
        parts = load_run(args.gin_file, args.gin_bindings).data.parts()
        named = [_open_or_build(part, None) for part in parts.values()]
    for cache in named:
        with _bars() as show_progress:
            caches.verify(cache.directory, _local(args.processes), show_progress)
        rows = sum(cache.split(name).num_rows for name in cache.manifest["splits"])
        print(f"{cache.directory}: {rows:,} rows are as they were built; digest {cache.digest}")


def _print_splits(cache: RowCache) -> None:
    rows = []
    for name in cache.manifest["splits"]:
        split = cache.split(name)
        counts = (split.num_rows, split.documents, split.tokens, split.utf8_bytes)
        rows.append([name, *(f"{count:,}" for count in counts), f"{split.bytes_per_token:.3f}",
                     f"{split.dropped_tail_tokens:,}"])  # fmt: skip
    headings = ("split", "rows", "documents", "tokens", "bytes", "bytes/token", "dropped tail")
    tables.print_table(headings, rows, right=range(1, len(headings)))


def _facts(cache: RowCache) -> list[tuple[str, str]]:
    vocabulary, bad = cache.vocabulary, cache.manifest["bad_documents"]
    facts = [
        ("row", f"{cache.sequence_length:,} tokens"),
        ("vocabulary", f"{vocabulary.name}, {vocabulary.size:,} tokens"),
        ("digest", cache.digest),
    ]
    groups = cache.manifest["splits"][TRAIN]["groups"]
    total = sum(group["tokens"] for group in groups.values())
    if len(groups) > 1:
        shares = [f"{name or '(none)'} {g['tokens'] / total:.1%}" for name, g in groups.items()]
        facts.append(("groups", ", ".join(shares)))
    if bad["count"]:
        facts.append(("bad", f"{bad['count']:,} documents skipped; the first: {bad['first'][0]}"))
    return facts


def _open_or_build(data: Data, executor: Executor | None) -> RowCache:
    if data.cache is not None:
        cache = RowCache.open(data.cache)
        if cache.sequence_length != data.sequence_length:
            raise UserError(
                f"CACHE={data.cache} has rows of {cache.sequence_length} tokens and "
                f"SEQUENCE_LENGTH={data.sequence_length}; make them equal."
            )
        return cache
    with _bars() as show_progress:
        return caches.open_or_build(
            corpus=data.corpus,
            vocabulary=vocabulary_of(data),
            sequence_length=data.sequence_length,
            packing=data.packing,
            seed=data.seed,
            cache_directory=data.cache_directory,
            executor=executor or _local(None),
            progress=show_progress,
        )


def _local(processes: int | None) -> LocalProcesses:
    cores = len(os.sched_getaffinity(0))
    return LocalProcesses(processes or cores, gin_config.imported_modules())


@contextlib.contextmanager
def _bars() -> Iterator[Progress]:
    """Gives a callback that shows one bar after another, each from its first call on."""
    with contextlib.ExitStack() as stack:
        current: str | None = None
        update = None

        def show_progress(what: str, done_bytes: int, total_bytes: int | None) -> None:
            nonlocal current, update
            if what != current:
                stack.close()
                current = what
                update = stack.enter_context(progress.bar(what))
            update(done_bytes, total_bytes)

        yield show_progress
