"""`palmscale checkpoint merge`: adapters merged into their base, as a run of whole parameters."""

import argparse
from typing import Any

from palmscale.cli.argument_values import workdir
from palmscale.cli.parser import add_checkpoint_choice, add_command, add_modules, add_workdir


def add(commands: Any) -> None:
    """Adds `merge` and its flags to the checkpoint commands."""
    summary = "Merge adapters (LoRA) into their base, in a new folder."
    command = add_command(commands, "merge", merge, summary)
    add_workdir(command, help="the folder of a run that trained adapters, or gs://BUCKET/PATH")
    add_checkpoint_choice(command)
    add_modules(command)
    command.add_argument("--to", type=workdir, required=True, metavar="DIR", help="the new folder")


def merge(args: argparse.Namespace) -> None:
    """Writes the merged run, and prints its size."""
    from palmscale.observe import log, units
    from palmscale.run import merge as merging

    log.set_up()
    options = {"checkpoint": args.checkpoint, "modules": args.modules}
    written = merging.merge(args.workdir, args.to, **options)
    print(
        f"Merged the adapters of step {written.step:,} into {args.to}: {units.size(written.bytes)}."
    )
