"""The rank of this process, as the flags give it."""

import argparse

from palmscale.cluster.join import ProcessPlace
from palmscale.errors import UserError

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
