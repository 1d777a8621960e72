"""`palmscale check-module`: what a user's module supports, before any rows are built."""

import argparse
import ast
import contextlib
from typing import Any

from palmscale.cli.argument_values import at_least
from palmscale.cli.parser import add_command
from palmscale.errors import UserError
from palmscale.observe import tables


def add(commands: Any) -> None:
    """Adds the command."""
    summary = "Check whether a Flax module can be trained, and what it supports."
    command = add_command(commands, "check-module", check_module, summary)
    command.add_argument("module", metavar="MODULE:CLASS", help="such as my_model:Llama")
    command.add_argument(
        "fields", nargs="*", metavar="FIELD=VALUE", help="fields of the module: dim=512"
    )
    command.add_argument("--sequence_length", type=at_least(int, 1), default=128, metavar="L")


def check_module(args: argparse.Namespace) -> None:
    """Prints a module's outputs, parameters and optional parts; raises what it lacks."""
    from palmscale.cli.commands.plan import use_no_device
    from palmscale.partition.rules import layout_rules
    from palmscale.run.module_report import find_module, report

    use_no_device()
    model = find_module(args.module, dict(map(_field, args.fields)))
    found = report(model, sequence_length=args.sequence_length, rules=layout_rules("2d"))
    if found.parameters:
        tables.print_table(["parameter", "shape", "dtype", "logical axes"], found.parameters)
        print()
    tables.print_facts(found.facts)
    if found.problems:
        raise UserError(f"{args.module} cannot be trained: {' '.join(found.problems)}")
    print(f"\n{args.module} can be trained.")


def _field(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"{text} sets no field; write FIELD=VALUE.")
    with contextlib.suppress(ValueError, SyntaxError):
        return name, ast.literal_eval(value)
    return name, value
