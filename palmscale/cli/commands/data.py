"""`palmscale data build` and `palmscale data verify`: row caches, built and verified."""

import argparse
import shlex
from typing import TYPE_CHECKING, Any

from palmscale.cli.commands import data_show
from palmscale.cli.commands.data_flags import add_cache, add_processes, check_cache_or_gin
from palmscale.cli.parser import add_command

if TYPE_CHECKING:
    from palmscale.data.build.processes import Executor
    from palmscale.data.dataset import Data
    from palmscale.data.row_cache import RowCache


def add(commands: Any) -> None:
    """Adds the data commands and their flags."""
    summary = "Build, verify and show row caches."
    top = commands.add_parser("data", help=summary, description=summary)
    inner = top.add_subparsers(
        title="commands", metavar="COMMAND", dest="subcommand", required=True
    )
    summary = "Build the row caches that the gin files describe."
    command = add_command(inner, "build", build, summary, gin=True)
    add_processes(command)
    command.add_argument(
        "--beam",
        metavar="FLAGS",
        help="build with Apache Beam and its flags, for example --beam='--runner=FlinkRunner'",
    )
    summary = "Verify every row of a cache against its checksum."
    command = add_command(inner, "verify", verify, summary, gin=True)
    add_cache(command)
    add_processes(command)
    data_show.add(inner)


def build(args: argparse.Namespace) -> None:
    """Builds the caches that do not exist yet, and prints what all of them contain."""
    from palmscale.cli.config.load import load_run
    from palmscale.observe import log, tables
    from palmscale.run.session import open_caches

    log.set_up()
    data = load_run(args.gin_file, args.gin_bindings).data
    for name, cache in open_caches(data, executor=_executor(args, data)).items():
        print(f"{name}: {cache.directory}\n" if name else f"{cache.directory}\n")
        _print_splits(cache)
        print()
        tables.print_facts(_facts(cache))
        print()


def verify(args: argparse.Namespace) -> None:
    """Reads whole caches; a difference raises CorruptionError, which names the file."""
    from palmscale.cli.config.load import load_run
    from palmscale.data.cache import verify as verify_cache
    from palmscale.data.open import local_processes
    from palmscale.observe import log, progress
    from palmscale.run.session import open_cache, open_caches

    check_cache_or_gin(args)
    log.set_up()
    if args.cache is not None:
        caches = [open_cache(args.cache)]
    else:
        caches = open_caches(load_run(args.gin_file, args.gin_bindings).data).values()
    for cache in caches:
        with progress.bars() as show_progress:
            verify_cache(cache.directory, local_processes(args.processes), show_progress)
        rows = sum(cache.split(name).num_rows for name in cache.manifest["splits"])
        print(f"{cache.directory}: {rows:,} rows verified; digest {cache.digest}")


def _executor(args: argparse.Namespace, data: "Data") -> "Executor":
    from palmscale.data.build.beam import BeamPipelines
    from palmscale.data.open import cache_directory, local_processes
    from palmscale.run import place

    if args.beam is not None:
        folder = cache_directory(data, place.cache_directory())
        return BeamPipelines(shlex.split(args.beam), str(folder))
    return local_processes(args.processes, data.import_modules)


def _print_splits(cache: "RowCache") -> None:
    from palmscale.observe import tables

    rows = []
    for name in cache.manifest["splits"]:
        split = cache.split(name)
        counts = (split.num_rows, split.documents, split.tokens, split.utf8_bytes)
        rows.append([name, *(f"{count:,}" for count in counts), f"{split.bytes_per_token:.3f}",
                     f"{split.dropped_tail_tokens:,}"])  # fmt: skip
    headings = ("split", "rows", "documents", "tokens", "bytes", "bytes/token", "dropped tail")
    tables.print_table(headings, rows, right=range(1, len(headings)))


def _facts(cache: "RowCache") -> list[tuple[str, str]]:
    from palmscale.data.sources.source import TRAIN

    vocabulary = cache.vocabulary
    facts = [
        ("row", f"{cache.sequence_length:,} tokens"),
        ("vocabulary", f"{vocabulary.name}, {vocabulary.size:,} tokens"),
        ("held out", f"{100 * cache.held_out_share:.3g}% of the text"),
        ("digest", cache.digest),
    ]
    groups = cache.manifest["splits"][TRAIN]["groups"]
    total = sum(group["tokens"] for group in groups.values())
    if len(groups) > 1:
        shares = [f"{name or '(none)'} {g['tokens'] / total:.1%}" for name, g in groups.items()]
        facts.append(("groups", ", ".join(shares)))
    if cache.skipped:
        facts.append(("skipped", cache.skipped))
    return facts
