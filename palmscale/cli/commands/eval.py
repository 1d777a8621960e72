"""`palmscale eval`: the evaluation loss of a checkpoint."""

import argparse
from typing import TYPE_CHECKING, Any

from palmscale.cli.parser import (
    add_adapter,
    add_checkpoint_choice,
    add_command,
    add_modules,
    add_place,
    add_workdir,
)
from palmscale.errors import UserError

if TYPE_CHECKING:
    from palmscale.run.run import Run


def add(commands: Any) -> None:
    """Adds the command."""
    command = add_command(
        commands, "eval", evaluate, "Evaluate a checkpoint on held-out text.", gin=True
    )
    add_workdir(command)
    add_checkpoint_choice(command)
    add_adapter(command)
    add_modules(command)
    add_place(command)


def evaluate(args: argparse.Namespace) -> None:
    """Prints a checkpoint's metrics over all held-out rows."""
    from palmscale.cli.config.load import load_run
    from palmscale.cli.place import command_of, place_of
    from palmscale.observe import log
    from palmscale.run.evaluate import evaluate as evaluate_run

    log.set_up()
    run = load_run(args.gin_file, args.gin_bindings) if args.gin_file else _kept_run(args)
    found = evaluate_run(
        run,
        args.workdir,
        checkpoint=args.checkpoint,
        adapter=args.adapter,
        place=place_of(args),
        command=command_of(args),
    )
    if found.leads:
        print(f"step {found.step}")
        for name, value in found.metrics.items():
            print(f"{name} {value:.6f}")


def _kept_run(args: argparse.Namespace) -> "Run":
    """Returns the run that the workdir's checkpoints describe, or its config.gin with changes."""
    from palmscale.cli.config.load import load_run
    from palmscale.run.stored_run import stored_run
    from palmscale.run.workdir import CONFIG
    from palmscale.storage.inside import inside
    from palmscale.storage.place import on_disk, place

    # What a checkpoint describes is evaluated without its optimizer, and so without its code.
    if not args.gin_bindings and (run := stored_run(args.workdir, args.modules)) is not None:
        return run
    config = inside(place(args.workdir), CONFIG)
    if config.is_file():
        with on_disk(config) as gin_file:
            return load_run([str(gin_file)], args.gin_bindings, modules=args.modules)
    why = "its checkpoints describe no run"
    if args.gin_bindings:
        why = f"--gin.{args.gin_bindings[0]} needs gin files"
    raise UserError(f"{why}, and {args.workdir} has no {CONFIG}; add --gin_file.")
