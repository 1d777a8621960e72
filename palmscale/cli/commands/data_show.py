"""`palmscale data show`: the contents of a row cache, or of the caches of a mixture."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palmscale.cli.argument_values import at_least, path
from palmscale.cli.commands.data_flags import add_cache, check_cache_or_gin
from palmscale.cli.parser import add_command

if TYPE_CHECKING:
    from palmscale.data.dataset import Data
    from palmscale.data.preview import Row
    from palmscale.data.row_cache import RowCache
    from palmscale.data.vocabulary import Vocabulary
    from palmscale.run.run import Run

_COUNTED_ROWS = 1000  # for the statistics of tokens


def add(commands: Any) -> None:
    """Adds `show` and its flags to the data commands."""
    summary = "Show some rows as text, with statistics."
    command = add_command(commands, "show", show, summary, gin=True)
    add_cache(command)
    command.add_argument("--rows", type=at_least(int, 1), default=3, metavar="N", help="default: 3")
    command.add_argument("--split", choices=("train", "validation"), default="train")
    command.add_argument(
        "--picture",
        type=path,
        metavar="FILE",
        help="plot the documents' lengths and origins as a PNG file",
    )


def show(args: argparse.Namespace) -> None:
    """Prints rows as text and statistics, and draws a plot if asked to.

    The rows of a mixture are shown in training order, each with its component. Held-out rows are
    not mixed: some rows of each component are shown.
    """
    from palmscale.cli.config.load import load_run
    from palmscale.observe import log
    from palmscale.run.session import open_cache, open_caches

    check_cache_or_gin(args)
    log.set_up()
    if args.cache is not None:
        _show_cache(open_cache(args.cache), args)
        return
    run = load_run(args.gin_file, args.gin_bindings)
    opened = open_caches(run.data)
    if run.data.components:
        _show_mixture(run, opened, args)
    else:
        _show_cache(opened[""], args)


def _show_cache(cache: "RowCache", args: argparse.Namespace) -> None:
    from palmscale.data import plots, preview
    from palmscale.observe import tables

    _check_rows({"": cache}, args.split)
    split, vocabulary = cache.split(args.split), cache.vocabulary
    rows = preview.first_rows(split, max(args.rows, _COUNTED_ROWS))
    headings = [f"row {number} of {split.num_rows:,}" for number in range(args.rows)]
    _print_rows(headings, rows, vocabulary)
    facts = _statistics(rows[:_COUNTED_ROWS], vocabulary)
    facts.insert(3, ("bytes/token", f"{split.loss_bytes_per_token or split.bytes_per_token:.3f}"))
    if cache.too_long:
        facts.append(("too long", cache.too_long))
    tables.print_facts(facts)
    if args.picture is not None:
        entry = cache.manifest["splits"][args.split]
        plots.plot_documents(entry, Path(args.picture), title=cache.directory.name)
        tables.print_facts([("picture", args.picture)])


def _show_mixture(run: "Run", opened: Mapping[str, "RowCache"], args: argparse.Namespace) -> None:
    from palmscale.data import plots
    from palmscale.data.sources.source import TRAIN
    from palmscale.observe import tables

    _check_rows(opened, args.split)
    vocabulary = next(iter(opened.values())).vocabulary
    if args.split == TRAIN:
        counted = _print_mixed_rows(run, opened, args.rows, vocabulary)
    else:
        counted = _print_held_out_rows(opened, args.rows, args.split, vocabulary)
    _print_components(run.data, opened, args.split)
    print()
    changes = _weight_changes(run.data)
    tables.print_facts([*_statistics(counted[:_COUNTED_ROWS], vocabulary), *changes])
    if args.picture is not None:
        entries = {name: cache.manifest["splits"][args.split] for name, cache in opened.items()}
        plots.plot_mixture(entries, run.data.weights_at(0), Path(args.picture))
        tables.print_facts([("picture", args.picture)])


def _check_rows(opened: Mapping[str, "RowCache"], split: str) -> None:
    from palmscale.errors import UserError

    if not any(cache.split(split).num_rows for cache in opened.values()):
        folders = ", ".join(str(cache.directory) for cache in opened.values())
        raise UserError(f"--split={split} has no rows in {folders}; show the other split.")


def _print_mixed_rows(
    run: "Run", opened: Mapping[str, "RowCache"], count: int, vocabulary: "Vocabulary"
) -> "list[Row]":
    import numpy as np

    from palmscale.data import preview
    from palmscale.data.mixture import Mixed
    from palmscale.data.open import training_rows

    mixed = training_rows(run.data, opened, run.training.batch_schedule)
    assert isinstance(mixed, Mixed), "there are components"
    numbers = np.arange(max(count, _COUNTED_ROWS))
    rows = preview.rows_of(mixed.read(numbers))
    names = mixed.names(numbers[:count])
    headings = [f"row {number} of the mixture: {name}" for number, name in enumerate(names)]
    _print_rows(headings, rows, vocabulary)
    return rows


def _print_held_out_rows(
    opened: Mapping[str, "RowCache"], count: int, split_name: str, vocabulary: "Vocabulary"
) -> "list[Row]":
    from palmscale.data import preview

    headings, shown, counted = [], [], []
    for name, cache in opened.items():
        split = cache.split(split_name)
        rows = preview.first_rows(split, max(count, _COUNTED_ROWS))
        for number, row in enumerate(rows[:count]):
            headings.append(f"row {number} of {split.num_rows:,} of {name}")
            shown.append(row)
        counted += rows[:_COUNTED_ROWS]
    _print_rows(headings, shown, vocabulary)
    return counted


def _print_rows(headings: list[str], rows: "list[Row]", vocabulary: "Vocabulary") -> None:
    """Prints the rows that have a heading, each below it."""
    from palmscale.data import preview

    for heading, row in zip(headings, rows):
        print(f"--- {heading}")
        print(preview.row_text(row, vocabulary))
    print("---")


def _print_components(data: "Data", opened: Mapping[str, "RowCache"], split_name: str) -> None:
    from palmscale.data.mixture import rates
    from palmscale.data.sources.source import TRAIN
    from palmscale.observe import tables

    shares = rates(data.weights_at(0))
    lines = []
    for name, cache in opened.items():
        split, share = cache.split(split_name), shares[name]
        counts = (split.num_rows, split.documents, split.tokens, split.utf8_bytes)
        # Number of rows of the mixture in which every row of the component occurs once.
        epoch = f"{split.num_rows / share:,.0f}" if share and split_name == TRAIN else "-"
        lines.append([name, f"{share:.2%}", *(f"{count:,}" for count in counts),
                      f"{split.bytes_per_token:.3f}", epoch])  # fmt: skip
    headings = (
        *("component", "weight", "rows", "documents", "tokens", "bytes", "bytes/token"),
        "rows/epoch",
    )
    tables.print_table(headings, lines, right=range(1, len(headings)))


def _weight_changes(data: "Data") -> list[tuple[str, str]]:
    from palmscale.data.mixture import rates

    changes = []
    for step, weights in data.weight_stages()[1:]:
        shares = "  ".join(f"{name} {share:.2%}" for name, share in rates(weights).items())
        changes.append((f"from step {step:,}", shares))
    return changes


def _statistics(rows: "list[Row]", vocabulary: "Vocabulary") -> list[tuple[str, str]]:
    from palmscale.data import preview

    counted = preview.token_statistics([row.ids for row in rows], vocabulary)
    with_loss = sum(row.weights.sum() for row in rows) / counted.tokens
    frequent = [f"{preview.token_text(i, vocabulary)} {share:.1%}" for i, share in counted.frequent]
    prompts = f", {with_loss:.1%} of them with loss" if with_loss < 1 else ""
    return [
        ("tokens", f"{counted.tokens:,} in the first {counted.rows:,} rows{prompts}"),
        ("distinct", f"{counted.distinct:,} of the {vocabulary.size:,} in the vocabulary"),
        (
            "documents",
            f"{counted.documents:,} end in these rows, {counted.documents / counted.rows:.2f} per"
            " row",
        ),
        ("frequent", "  ".join(frequent)),
    ]
