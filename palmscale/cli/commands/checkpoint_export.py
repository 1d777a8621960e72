"""`palmscale checkpoint export`: the weights of a checkpoint in the layout of another program."""

import argparse
from typing import Any

from palmscale.cli.argument_values import at_least, path
from palmscale.cli.parser import add_checkpoint_choice, add_command, add_modules, add_workdir


def add(commands: Any) -> None:
    """Adds `export` and its flags to the checkpoint commands."""
    summary = "Write the weights for another program."
    command = add_command(commands, "export", export, summary)
    add_workdir(command)
    add_checkpoint_choice(command)
    add_modules(command)
    command.add_argument(
        "--to", required=True, metavar="LAYOUT", help="hf, safetensors, ...; see docs/interop.md"
    )
    command.add_argument(
        "--output", type=path, required=True, help="the new file or folder, which does not exist"
    )
    command.add_argument(
        "--dtype", metavar="TYPE", help="of the weights (default: the layout's first)"
    )
    command.add_argument(
        "--average",
        type=at_least(int, 1),
        default=1,
        metavar="N",
        help="average the parameters of the last N checkpoints",
    )
    command.add_argument("--license", metavar="NAME", help="for the model card: apache-2.0")
    command.add_argument("--language", metavar="NAME", help="for the model card: en")
    command.add_argument(
        "--no-check",
        dest="check",
        action="store_false",
        help="do not compare the written weights' logits with the model's",
    )


def export(args: argparse.Namespace) -> None:
    """Writes the file or folder, and prints its size and what was compared."""
    from palmscale.observe import log, units
    from palmscale.run import export as exports

    log.set_up()
    fields = ("checkpoint", "dtype", "average", "license", "language", "check", "modules")
    options = {name: getattr(args, name) for name in fields}
    written = exports.export(args.workdir, args.to, args.output, **options)
    print(f"Wrote step {written.step:,} to {args.output}: {units.size(written.bytes)}.")
    print(written.checked or "Nothing was compared.")
