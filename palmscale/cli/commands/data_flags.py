"""Flags that several of the data commands share."""

import argparse

from palmscale.cli.argument_values import at_least, path


def add_processes(command: argparse.ArgumentParser) -> None:
    """Adds --processes."""
    command.add_argument(
        "--processes",
        type=at_least(int, 1),
        metavar="N",
        help="number of worker processes (default: one per core)",
    )


def add_cache(command: argparse.ArgumentParser) -> None:
    """Adds the optional argument CACHE."""
    command.add_argument(
        "cache", type=path, nargs="?", metavar="CACHE", help="a cache, in place of gin files"
    )


def check_cache_or_gin(args: argparse.Namespace) -> None:
    """Raises UserError if both a cache and gin flags are given."""
    if args.cache and (args.gin_file or args.gin_bindings):
        args.parser.error(f"both a cache ({args.cache}) and gin flags are given; use one of them")
