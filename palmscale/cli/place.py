"""The rank of this process and what it says at its end, as the command line has it."""

import argparse
import functools
from typing import TYPE_CHECKING

from palmscale.cli import how_to_set
from palmscale.cluster.join import ProcessPlace
from palmscale.errors import UserError

if TYPE_CHECKING:
    from palmscale.run.ending import Command

_FLAGS = ("coordinator", "num_processes", "process_id")


def place_of(args: argparse.Namespace) -> ProcessPlace | None:
    """Returns the place that the flags give; None: they give none, and the environment tells.

    Raises:
        UserError: they give it in part, or it cannot be.
    """
    given = {name: getattr(args, name) for name in _FLAGS}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(_FLAGS):
        return None
    if missing:
        raise UserError(
            f"--{missing[0]} is missing; give --coordinator, --num_processes and --process_id"
            " together, or none of them."
        )
    return ProcessPlace(**given)


def command_of(args: argparse.Namespace) -> "Command":
    """Returns how this process explains an error that ends it."""
    from palmscale.run.ending import Command

    return Command(explain=functools.partial(how_to_set.explained, args), tracebacks=args.debug)
