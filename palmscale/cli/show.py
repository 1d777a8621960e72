"""`palmscale data show`: what is in a row cache, or in the caches of a mixture."""

import argparse
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from palmscale.cli import pictures, tables
from palmscale.cli.rows import open_caches, train_rows
from palmscale.cli.run import Data, Run, load_run
from palmscale.data.mixture import Mixed
from palmscale.data.rows import RowCache
from palmscale.data.sources import TRAIN
from palmscale.data.vocab import Vocabulary
from palmscale.errors import UserError
from palmscale.observe import log

_COUNTED_ROWS = 1000  # of the statistics of tokens


def show(args: argparse.Namespace) -> None:
    """`palmscale data show`: prints rows as text, statistics, and draws histograms if asked to.

    The rows of a mixture come in the order of training, with the name of each one's source. Those
    held out are not mixed: some of each source are shown.
    """
    log.set_up()
    if args.cache is not None:
        _show_cache(RowCache.open(Path(args.cache)), args)
        return
    run = load_run(args.gin_file, args.gin_bindings)
    opened = open_caches(run.data)
    if run.data.components:
        _show_mixture(run, opened, args)
    else:
        _show_cache(opened[""], args)


def text_of(row_L: np.ndarray, vocabulary: Vocabulary) -> str:
    """Returns a row as text, with a line `[eod]` where a document ends.

    Control characters, which would command the terminal, appear as `\\x1b`.
    """
    documents = np.split(row_L, np.flatnonzero(row_L == vocabulary.eod_id) + 1)
    text = "\n[eod]\n".join(vocabulary.decode(ids[ids != vocabulary.eod_id]) for ids in documents)
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)


def _show_cache(cache: RowCache, args: argparse.Namespace) -> None:
    split, vocabulary = cache.split(args.split), cache.vocabulary
    if not split.num_rows:
        raise UserError(f"--split={args.split} of {cache.directory} has no rows; show the other.")
    rows_RL = _first_rows(cache, args.split, max(args.rows, _COUNTED_ROWS))
    for number, row_L in enumerate(rows_RL[: args.rows]):
        print(f"--- row {number} of {split.num_rows:,}")
        print(text_of(row_L, vocabulary))
    print("---")
    facts = _statistics(rows_RL[:_COUNTED_ROWS], vocabulary)
    facts.insert(3, ("bytes/token", f"{split.bytes_per_token:.3f}"))
    tables.print_facts(facts)
    if args.picture is not None:
        pictures.draw_documents(
            cache.manifest["splits"][args.split], Path(args.picture), title=cache.directory.name
        )
        tables.print_facts([("picture", args.picture)])


def _show_mixture(run: Run, opened: Mapping[str, RowCache], args: argparse.Namespace) -> None:
    if not any(cache.split(args.split).num_rows for cache in opened.values()):
        raise UserError(f"--split={args.split} of the mixture has no rows; show the other.")
    vocabulary = next(iter(opened.values())).vocabulary
    if args.split == TRAIN:
        mixed = train_rows(run, opened)
        assert isinstance(mixed, Mixed), "there are components"
        numbers = np.arange(max(args.rows, _COUNTED_ROWS))
        rows_RL = mixed.read(numbers)["target"]
        named = [
            (f"row {number} of the mixture: {name}", row_L)
            for number, name, row_L in zip(numbers, mixed.names(numbers), rows_RL)
        ][: args.rows]
    else:
        named = list(_held_out_rows(opened, args))
        parts = [_first_rows(cache, args.split, _COUNTED_ROWS) for cache in opened.values()]
        rows_RL = np.concatenate(parts)
    for heading, row_L in named:
        print(f"--- {heading}")
        print(text_of(row_L, vocabulary))
    print("---")
    _print_parts(run.data, opened, args.split)
    print()
    tables.print_facts(
        [*_statistics(rows_RL[:_COUNTED_ROWS], vocabulary), *_weight_changes(run.data)]
    )
    if args.picture is not None:
        splits = {name: cache.manifest["splits"][args.split] for name, cache in opened.items()}
        pictures.draw_mixture(splits, run.data.weights_at(0), Path(args.picture))
        tables.print_facts([("picture", args.picture)])


def _held_out_rows(
    opened: Mapping[str, RowCache], args: argparse.Namespace
) -> Iterator[tuple[str, np.ndarray]]:
    for name, cache in opened.items():
        total = cache.split(args.split).num_rows
        for number, row_L in enumerate(_first_rows(cache, args.split, args.rows)):
            yield f"row {number} of {total:,} of {name}", row_L


def _first_rows(cache: RowCache, split_name: str, count: int) -> np.ndarray:
    split = cache.split(split_name)
    return split.read(np.arange(min(count, split.num_rows)))["target"]


def _print_parts(data: Data, opened: Mapping[str, RowCache], split_name: str) -> None:
    weights = data.weights_at(0)
    total = sum(weights.values())
    lines = []
    for name, cache in opened.items():
        split, share = cache.split(split_name), weights[name] / total
        counts = (split.num_rows, split.documents, split.tokens, split.utf8_bytes)
        lines.append(
            [
                name,
                f"{share:.2%}",
                *(f"{count:,}" for count in counts),
                f"{split.bytes_per_token:.3f}",
                f"{split.num_rows / share:,.0f}" if share and split_name == TRAIN else "-",
            ]
        )
    # The last: how many rows of the mixture it takes to go through the source once.
    headings = ("source", "weight", "rows", "documents", "tokens", "bytes", "bytes/token", "epoch")
    tables.print_table(headings, lines, right=range(1, len(headings)))


def _weight_changes(data: Data) -> list[tuple[str, str]]:
    changes = []
    for step, weights in data.weight_stages()[1:]:
        total = sum(weights.values())
        shares = "  ".join(f"{name} {weight / total:.2%}" for name, weight in weights.items())
        changes.append((f"from step {step:,}", shares))
    return changes


def _statistics(rows_RL: np.ndarray, vocabulary: Vocabulary) -> list[tuple[str, str]]:
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
        ("frequent", "  ".join(frequent)),
    ]


def _shown(token_id: int, vocabulary: Vocabulary) -> str:
    return "[eod]" if token_id == vocabulary.eod_id else repr(vocabulary.decode([token_id]))
