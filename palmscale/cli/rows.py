"""The row cache of a run, opened or built on first use; and the commands that look into one."""

import argparse
import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from palmscale.cli import tables
from palmscale.cli.run import Data, load_run
from palmscale.data import cache as caches
from palmscale.data.cache import RowCache
from palmscale.data.rows import Split
from palmscale.data.sources import TRAIN, VALIDATION
from palmscale.data.vocab import ByteVocabulary, SentencePieceVocabulary, Vocabulary
from palmscale.errors import UserError
from palmscale.observe import log, progress

_COUNTED_ROWS = 1000  # of the statistics that `data show` prints


def open_rows(data: Data) -> RowCache:
    """Returns the cache that `data` names or describes.

    Raises:
        UserError: its sequence length is not the one asked for.
    """
    cache, _ = _open_or_build(data)
    train, held_out = (cache.split(name).num_rows for name in (TRAIN, VALIDATION))
    log.say(
        f"Rows of {cache.sequence_length} tokens: {train:,} to train on, {held_out:,} held out, "
        f"in {cache.directory}."
    )
    return cache


def build(args: argparse.Namespace) -> None:
    """`palmscale data build`: builds the cache, unless it is there, and prints what it holds."""
    log.set_up()
    cache, was_built = _open_or_build(load_run(args.gin_file, args.gin_bindings).data)
    print(f"{'Built' if was_built else 'There already:'} {cache.directory}\n")
    rows = []
    for name in cache.manifest["splits"]:
        split = cache.split(name)
        counts = (split.num_rows, split.documents, split.tokens, split.utf8_bytes)
        rows.append([name, *(f"{count:,}" for count in counts), f"{split.bytes_per_token:.3f}",
                     f"{split.dropped_tail_tokens:,}"])  # fmt: skip
    headings = ("split", "rows", "documents", "tokens", "bytes", "bytes/token", "dropped tail")
    tables.print_table(headings, rows, right=range(1, len(headings)))
    vocabulary = cache.vocabulary
    print()
    tables.print_facts(
        [
            ("row", f"{cache.sequence_length:,} tokens"),
            ("vocabulary", f"{vocabulary.name}, {vocabulary.size:,} tokens"),
            ("digest", cache.digest),
        ]
    )


def verify(args: argparse.Namespace) -> None:
    """`palmscale data verify`: reads the whole cache; a difference names its file."""
    log.set_up()
    directory = _named(args).directory
    with _bar("Verifying the row cache") as (advance, _):
        cache = caches.verify(directory, progress=advance)
    rows = sum(cache.split(name).num_rows for name in cache.manifest["splits"])
    print(f"{directory}: {rows:,} rows are as they were built; digest {cache.digest}")


def show(args: argparse.Namespace) -> None:
    """`palmscale data show`: prints the first rows as text, then statistics of their tokens."""
    log.set_up()
    cache = _named(args)
    split, vocabulary = cache.split(args.split), cache.vocabulary
    if not split.num_rows:
        raise UserError(f"--split={args.split} of {cache.directory} has no rows; show the other.")
    for number in range(min(args.rows, split.num_rows)):
        print(f"--- row {number} of {split.num_rows:,}")
        print(text_of(split.read(np.array([number]))[0], vocabulary))
    print("---")
    tables.print_facts(_statistics(split, vocabulary))


def text_of(row_L: np.ndarray, vocabulary: Vocabulary) -> str:
    """Returns a row as text, with a line `[eod]` where a document ends.

    Control characters, which would command the terminal, appear as `\\x1b`.
    """
    documents = np.split(row_L, np.flatnonzero(row_L == vocabulary.eod_id) + 1)
    text = "\n[eod]\n".join(vocabulary.decode(ids[ids != vocabulary.eod_id]) for ids in documents)
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)


def _statistics(split: Split, vocabulary: Vocabulary) -> list[tuple[str, str]]:
    rows_RL = split.read(np.arange(min(_COUNTED_ROWS, split.num_rows)))
    ids, counts = np.unique(rows_RL, return_counts=True)
    ends = int(counts[ids == vocabulary.eod_id].sum())
    frequent = [
        f"{_shown(int(ids[i]), vocabulary)} {counts[i] / rows_RL.size:.1%}"
        for i in np.argsort(-counts, kind="stable")[:8]
    ]
    return [
        ("tokens", f"{rows_RL.size:,} in the first {len(rows_RL):,} rows"),
        ("distinct", f"{len(ids):,} of the {vocabulary.size:,} in the vocabulary"),
        ("documents", f"{ends:,} end in these rows, {ends / len(rows_RL):.2f} a row"),
        ("bytes/token", f"{split.bytes_per_token:.3f}"),
        ("frequent", "  ".join(frequent)),
    ]


def _shown(token_id: int, vocabulary: Vocabulary) -> str:
    return "[eod]" if token_id == vocabulary.eod_id else repr(vocabulary.decode([token_id]))


def _named(args: argparse.Namespace) -> RowCache:
    """Returns the cache that the command line names, by its folder or by gin files."""
    if args.cache is not None:
        return RowCache.open(Path(args.cache))
    return _open_or_build(load_run(args.gin_file, args.gin_bindings).data)[0]


def _open_or_build(data: Data) -> tuple[RowCache, bool]:
    """Returns the cache, and whether it was built now."""
    if data.cache is not None:
        cache = RowCache.open(data.cache)
        if cache.sequence_length != data.sequence_length:
            raise UserError(
                f"CACHE={data.cache} has rows of {cache.sequence_length} tokens and "
                f"SEQUENCE_LENGTH={data.sequence_length}; make them equal."
            )
        return cache, False
    vocabulary = (
        ByteVocabulary()
        if data.sentencepiece_model is None
        else SentencePieceVocabulary(data.sentencepiece_model)
    )
    with _bar("Building the row cache") as (advance, was_called):
        cache = caches.open_or_build(
            corpus=data.corpus,
            vocabulary=vocabulary,
            sequence_length=data.sequence_length,
            seed=data.seed,
            cache_directory=data.cache_directory,
            progress=advance,
        )
    return cache, was_called()


@contextlib.contextmanager
def _bar(description: str) -> Iterator[tuple[caches.Progress, Callable[[], bool]]]:
    """Gives a callback whose bar appears at its first call, and whether it was ever called."""
    with contextlib.ExitStack() as stack:
        more: Callable[[int], None] | None = None
        last_bytes = 0

        def advance(done_bytes: int, total_bytes: int | None) -> None:
            nonlocal more, last_bytes
            if more is None:
                more = stack.enter_context(progress.bar(description, total_bytes))
            more(done_bytes - last_bytes)
            last_bytes = done_bytes

        yield advance, lambda: more is not None
