"""`palmscale vocab train` and `palmscale vocab check`: vocabularies, trained and checked."""

import argparse
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from palmscale.cli.argument_values import at_least, path
from palmscale.cli.parser import add_command
from palmscale.data.vocab.sentencepiece_model import MAX_SIZE, MIN_SIZE, MODEL_TYPES

if TYPE_CHECKING:
    from palmscale.data.dataset import Data
    from palmscale.data.vocab.check import Counts

_DEFAULT_GIN_FILE = "configs/data/text.gin"


def add(commands: Any) -> None:
    """Adds the vocab commands and their flags."""
    summary = "Train SentencePiece vocabularies, and check any."
    top = commands.add_parser("vocab", help=summary, description=summary)
    inner = top.add_subparsers(
        title="commands", metavar="COMMAND", dest="subcommand", required=True
    )
    summary = (
        "Train a vocabulary with PaLM's properties on the gin files' corpus"
        " (default: the sources of Python's standard library)."
    )
    command = add_command(inner, "train", train, summary, gin=True)
    command.add_argument(
        "--size",
        type=at_least(int, MIN_SIZE, MAX_SIZE),
        required=True,
        metavar="N",
        help=f"number of pieces, {MIN_SIZE} to {MAX_SIZE} (PaLM's)",
    )
    command.add_argument(
        "--out", type=path, required=True, metavar="FILE", help="the model file to write"
    )
    command.add_argument("--model_type", choices=MODEL_TYPES, default="bpe", help="default: bpe")
    command.add_argument(
        "--max_bytes",
        type=at_least(int, 1),
        default=200_000_000,
        metavar="N",
        help="size of the sample of the corpus to train on (default: 200000000)",
    )
    command.add_argument("--seed", type=int, default=0, help="of the sample (default: 0)")
    summary = "Check that a vocabulary is lossless, and measure it on held-out text."
    command = add_command(inner, "check", check, summary, gin=True)
    command.add_argument(
        "model",
        type=path,
        metavar="MODEL",
        help="a SentencePiece .model file, a tokenizer.json, bytes or raw_bytes",
    )


def train(args: argparse.Namespace) -> None:
    """Writes a SentencePiece model of the corpus's training split."""
    from palmscale.data.vocab.training import train_vocabulary
    from palmscale.observe import log

    log.set_up()
    vocabulary = train_vocabulary(
        _load_data(args),
        args.out,
        size=args.size,
        model_type=args.model_type,
        max_bytes=args.max_bytes,
        seed=args.seed,
    )
    out = vocabulary.model_file
    print(f"{out}: {vocabulary.size:,} pieces. Next: palmscale vocab check {shlex.quote(str(out))}")


def check(args: argparse.Namespace) -> None:
    """Prints what proves that a model is lossless, and its bytes per token on held-out text."""
    from palmscale.data.vocab.check import check as check_lossless
    from palmscale.data.vocab.check import held_out_counts
    from palmscale.data.vocabulary import vocabulary_named
    from palmscale.observe import log, tables

    log.set_up()
    vocabulary = vocabulary_named(args.model)
    proven = check_lossless(vocabulary)
    counts = held_out_counts(vocabulary, _load_data(args))
    tables.print_table(("property", "evidence"), proven)
    print()
    tables.print_facts([("pieces", f"{vocabulary.size:,}"), ("digest", vocabulary.digest)])
    print()
    _print_counts(counts)


def _load_data(args: argparse.Namespace) -> "Data":
    from palmscale.cli.config.load import load_data

    return load_data(args.gin_file or [_DEFAULT_GIN_FILE], args.gin_bindings)


def _print_counts(groups: Mapping[str, "Counts"]) -> None:
    from palmscale.data.vocab.check import Counts
    from palmscale.observe import tables

    if not groups:
        print("No document of this corpus is held out: bytes per token are not measured.")
        return
    rows = [*groups.items()] if len(groups) > 1 else []
    rows.append(("all", Counts(*map(sum, zip(*groups.values())))))
    headings = ("held out", "documents", "bytes", "tokens", "bytes/token")
    cells = [
        [name or "(no group)", *(f"{count:,}" for count in counts),
         f"{counts.utf8_bytes / counts.tokens:.3f}"]
        for name, counts in rows
    ]  # fmt: skip
    tables.print_table(headings, cells, right=range(1, len(headings)))
