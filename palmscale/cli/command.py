"""What the commands' arguments are made of: a parser of few words, and flags that many share."""

import argparse
import re
from typing import Any, NoReturn

from palmscale.cli.argument_values import at_least, checkpoint, workdir
from palmscale.cli.nearest import did_you_mean
from palmscale.errors import UserError

GIN_PREFIX = "--gin."


class Parser(argparse.ArgumentParser):
    """An argparse parser that answers a mistake in one line, with the nearest known word."""

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

    def refuse_unknown(self, arguments: list[str]) -> None:
        """Raises UserError for arguments that no flag took."""
        for argument in arguments:
            flag = argument.partition("=")[0]
            if flag.startswith("-"):
                self.error(f"unknown flag {flag}{did_you_mean(flag, self._option_string_actions)}")
        if arguments:
            self.error(f"unexpected argument {arguments[0]}")


class Raw(argparse.RawDescriptionHelpFormatter):
    """Leaves the lines of a description as they are."""


def add_command(commands: Any, name: str, function: str, summary: str, **keywords: Any) -> Parser:
    """Adds a command that `palmscale.cli.<function>` answers; `gin`: it reads gin files."""
    gin = keywords.pop("gin", False)
    command = commands.add_parser(
        name, help=summary, description=summary, formatter_class=Raw, **keywords
    )
    command.set_defaults(function=function, parser=command, gin=gin, gin_bindings=[])
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


def add_workdir(command: argparse.ArgumentParser) -> None:
    """Adds the required --workdir."""
    command.add_argument(
        "--workdir", type=workdir, required=True, help="the run's folder, or gs://BUCKET/PATH"
    )


def add_checkpoint_choice(command: argparse.ArgumentParser) -> None:
    """Adds --checkpoint."""
    command.add_argument(
        "--checkpoint",
        type=checkpoint,
        default="latest",
        metavar="WHICH",
        help="latest (default), best, or a step",
    )


def add_place(command: argparse.ArgumentParser) -> None:
    """Adds what a process of several says of its place."""
    group = command.add_argument_group(
        "several processes",
        "Cloud TPU, GKE, Slurm and Open MPI tell by themselves; elsewhere, for each process:",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens")
    group.add_argument("--num_processes", type=at_least(int, 1), metavar="N")
    group.add_argument("--process_id", type=at_least(int, 0), metavar="I", help="0 to N - 1")
