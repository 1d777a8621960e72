"""`palmscale score`: the log-probabilities that a trained model gives to texts."""

import argparse
from typing import Any

from palmscale.cli.argument_values import at_least
from palmscale.cli.commands.lines_flags import add_lines, lines_of
from palmscale.cli.parser import (
    add_adapter,
    add_checkpoint_choice,
    add_command,
    add_modules,
    add_place,
    add_workdir,
)


def add(commands: Any) -> None:
    """Adds the command."""
    command = add_command(
        commands, "score", score, "Compute log-probabilities and bits per byte of texts."
    )
    add_workdir(command)
    add_checkpoint_choice(command)
    add_adapter(command)
    add_modules(command)
    add_lines(command, command, '{"id": ..., "text": ...}', required=True)
    command.add_argument(
        "--context_length",
        type=at_least(int, 1),
        metavar="N",
        help="tokens that the model sees at once (default: those of a row in training)",
    )
    add_place(command)


def score(args: argparse.Namespace) -> None:
    """Writes a line of scores for each line of text; process 0 writes for all."""
    from palmscale.cli.place import command_of, place_of
    from palmscale.observe import log
    from palmscale.run.batch import TextLine, score_lines
    from palmscale.run.job import joined
    from palmscale.run.load import load

    log.set_up()
    with joined(place_of(args), simulated_devices=None, command=command_of(args)) as job:
        lines_of(
            *(args, job.peers, TextLine),
            lambda lines, done: score_lines(
                lambda: load(
                    *(args.workdir, args.checkpoint),
                    adapter=args.adapter,
                    modules=args.modules,
                    peers=job.peers,
                ),
                *(lines, done),
                context_length=args.context_length,
            ),
        )
