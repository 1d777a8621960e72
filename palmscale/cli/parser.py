"""The command line's parser: one-line errors, and the flags that several commands share."""

import argparse
import os
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from palmscale.cli.argument_values import at_least, checkpoint, workdir
from palmscale.errors import UserError
from palmscale.run.nearest import did_you_mean

GIN_PREFIX = "--gin."

# What a command does with its arguments; it returns an exit code, or None for 0.
Command = Callable[[argparse.Namespace], int | None]


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises UserError with one line and the nearest known word."""

    def __init__(self, *args: Any, **keywords: Any):
        # Abbreviated flags would make every new flag a breaking change.
        super().__init__(*args, allow_abbrev=False, **keywords)

    def error(self, message: str) -> NoReturn:
        """Raises UserError with the mistake, and the nearest known word."""
        pattern = r"argument (\S+): invalid choice: '([^']*)' \(choose from (.*)\)"
        if choice := re.search(pattern, message):
            what = "command " if choice[1] == "COMMAND" else f"{choice[1]}="
            known = [word.strip(" '") for word in choice[3].split(",")]
            message = f"unknown {what}{choice[2]}{did_you_mean(choice[2], known)}"
        raise UserError(f"{message} - see `{self.prog} --help`")

    def flags(self) -> dict[str, str]:
        """Returns the flags by the names that their values have: {"workdir": "--workdir"}."""
        return {
            action.dest: action.option_strings[0]
            for action in self._actions
            if action.option_strings
        }

    def refuse_unknown(self, arguments: Sequence[str]) -> None:
        """Raises UserError for arguments that no flag took."""
        for argument in arguments:
            flag = argument.partition("=")[0]
            if flag.startswith("-"):
                self.error(f"unknown flag {flag}{did_you_mean(flag, self._option_string_actions)}")
        if arguments:
            self.error(f"unexpected argument {arguments[0]}")


class Raw(argparse.RawDescriptionHelpFormatter):
    """Leaves the lines of a description as they are."""


def add_command(
    commands: Any, name: str, function: Command, summary: str, *, gin: bool = False
) -> Parser:
    """Adds a command that `function` runs, and returns its parser; `gin`: it reads gin files."""
    command = commands.add_parser(name, help=summary, description=summary, formatter_class=Raw)
    command.set_defaults(
        function=function, parser=command, gin=gin, gin_bindings=[], complete=lambda args: None
    )
    command.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )
    if gin:
        command.add_argument(
            "--gin_file",
            action="append",
            default=[],
            metavar="FILE",
            help="a gin file; repeat it to add more",
        )
        # Taken out of the arguments before argparse sees them; stated here for --help.
        command.add_argument(
            f"{GIN_PREFIX}NAME=VALUE",
            dest="gin_help",
            action="store_true",
            default=argparse.SUPPRESS,
            help="set a macro or a parameter of the gin files, as in --gin.TRAIN_STEPS=200",
        )
    return command


def parse(parser: Parser, arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the parsed command line, with `--gin.NAME=VALUE` as `NAME=VALUE` in `gin_bindings`.

    Raises:
        UserError: a mistake, with the nearest known command or flag.
    """
    for argument in arguments:
        if argument.partition("=")[2] == "--":  # argparse would leave the flag without a value.
            parser.error(f"{argument} is not a flag's value; give another")
        if any("\ud800" <= character <= "\udfff" for character in argument):
            encoding = sys.getfilesystemencoding()
            parser.error(f"the argument {argument!r} is not valid {encoding}; correct it")
    bindings = [a.removeprefix(GIN_PREFIX) for a in arguments if a.startswith(GIN_PREFIX)]
    args, unknown = parser.parse_known_args([a for a in arguments if not a.startswith(GIN_PREFIX)])
    args.parser.refuse_unknown(unknown)
    for binding in bindings:
        if not args.gin:
            args.parser.error(f"{args.parser.prog} takes no {GIN_PREFIX}{binding}")
        if "=" not in binding:
            args.parser.error(
                f"{GIN_PREFIX}{binding} has no value; write {GIN_PREFIX}{binding}=VALUE"
            )
    args.gin_bindings = bindings
    args.complete(args)
    return args


def add_workdir(
    command: argparse.ArgumentParser, *, help: str = "the run's folder, or gs://BUCKET/PATH"
) -> None:
    """Adds the required --workdir."""
    command.add_argument("--workdir", type=workdir, required=True, help=help)


def add_run_workdir(command: argparse.ArgumentParser, *, help: str = "the run's folder") -> None:
    """Adds --workdir, by default named after the last gin file."""
    command.add_argument(
        "--workdir",
        type=workdir,
        help=f"{help}, or gs://BUCKET/PATH (default: runs/<name of the gin file>)",
    )
    command.set_defaults(complete=_name_workdir)


def require_gin_files(args: argparse.Namespace) -> None:
    """Raises UserError where no gin file is given; a command's `complete`."""
    if not args.gin_file:
        args.parser.error("no gin file; add --gin_file=configs/runs/quickstart.gin")


def _name_workdir(args: argparse.Namespace) -> None:
    require_gin_files(args)
    if args.workdir is None:
        args.workdir = os.path.join("runs", pathlib.Path(args.gin_file[-1]).stem)


def add_checkpoint_choice(command: argparse.ArgumentParser) -> None:
    """Adds --checkpoint."""
    command.add_argument(
        "--checkpoint",
        type=checkpoint,
        default="latest",
        metavar="WHICH",
        help="latest (default), best, or a step",
    )


def add_adapter(command: argparse.ArgumentParser) -> None:
    """Adds --adapter."""
    command.add_argument(
        "--adapter",
        type=workdir,
        metavar="DIR",
        help="the folder of a run that trained adapters for this one, or a file with one",
    )


def add_modules(command: argparse.ArgumentParser) -> None:
    """Adds --module."""
    command.add_argument(
        "--module",
        dest="modules",
        action="append",
        default=[],
        metavar="NAME",
        help="import a module whose classes the checkpoint may name; repeat it to name more",
    )


def add_place(command: argparse.ArgumentParser) -> None:
    """Adds the flags for the rank of a process and the coordinator of its job."""
    group = command.add_argument_group(
        "several processes",
        "Detected on Cloud TPU, GKE, Slurm and Open MPI; elsewhere, for each process:",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens")
    group.add_argument("--num_processes", type=at_least(int, 1), metavar="N")
    group.add_argument("--process_id", type=at_least(int, 0), metavar="I", help="0 to N - 1")
