"""`palmscale checkpoint quantize`: a copy with quantized weights, to generate from."""

import argparse
from typing import Any

from palmscale.cli.argument_values import workdir
from palmscale.cli.parser import add_checkpoint_choice, add_command, add_modules, add_workdir


def add(commands: Any) -> None:
    """Adds `quantize` and its flags to the checkpoint commands."""
    summary = "Write a copy with quantized weights to a new folder."
    command = add_command(commands, "quantize", quantize, summary)
    add_workdir(command)
    add_checkpoint_choice(command)
    add_modules(command)
    command.add_argument("--to", type=workdir, required=True, metavar="DIR", help="the new folder")
    command.add_argument(
        "--weights", choices=("int8", "int4", "fp8"), default="int8", help="default: int8"
    )


def quantize(args: argparse.Namespace) -> None:
    """Writes the copy, and prints its size."""
    from palmscale.observe import log, units
    from palmscale.run import quantize as quantized

    log.set_up()
    options = {"weights": args.weights, "checkpoint": args.checkpoint, "modules": args.modules}
    written = quantized.quantize(args.workdir, args.to, **options)
    print(
        f"Wrote step {written.step:,} to {args.to}: {args.weights} weights,"
        f" {units.size(written.bytes)}."
    )
