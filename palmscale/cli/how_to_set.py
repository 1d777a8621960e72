"""How the fields that a message of the library names are set: by which flag or macro."""

import argparse
import re
import shlex
import sys
from collections.abc import Mapping

from palmscale.exit_codes import FAULT, INTERRUPTED, one_line

_FIELD = re.compile(r"(?<![\w.])[A-Za-z]\w*\.[a-z]\w*(?!\w|\.\w|\()")
_ADVICE = re.compile(r"\bset ([A-Z]\w*\.[a-z]\w*)=(\(.*?\))(?=\.?$)")
_KEYWORD = re.compile(r"(?<![\w.-])([a-z]\w*)=")
_IMPORT = re.compile(r"import_weights\('(.*)', '(\w+)', workdir\)$")


def explained(args: argparse.Namespace, code: int, message: str) -> str:
    """Returns the line of an error that ends a command, with what the user can do about it."""
    message = _IMPORT.sub(_import_command, message)
    if code != INTERRUPTED:
        message += hint(message, args.parser.flags())
    elif args.command == "train":
        message += f"; to continue from {args.workdir}, run the same command again"
    if code == FAULT and not args.debug:
        message += "; run again with --debug for the traceback"
    return one_line(message)


def _import_command(call: re.Match[str]) -> str:
    source, layout = call.groups()
    return (
        f"palmscale checkpoint import --from={layout} --input={shlex.quote(source)}"
        " --workdir=runs/imported"
    )


def hint(message: str, flags: Mapping[str, str]) -> str:
    """Returns ` (set Training.steps by --gin.TRAIN_STEPS)`, or nothing to add.

    `flags` are those of the command, by the keyword that the library knows each by.
    """
    ways = {field: f"--gin.{macro}" for field, macro in _macros(message).items()}
    if (advice := _ADVICE.search(message)) and advice[1] in ways:
        ways[advice[1]] += f'="{advice[2]}"'  # ready to be pasted into a shell
    ways |= {word: flags[word] for word in _KEYWORD.findall(message) if word in flags}
    # What the message says itself need not be said again.
    told = [f"{name} by {way}" for name, way in ways.items() if way not in message]
    return f" (set {', '.join(told)})" if told else ""


def _macros(message: str) -> dict[str, str]:
    # Without it nothing has been loaded: importing it would cost more than the message.
    load = sys.modules.get("palmscale.cli.config.load")
    if load is None:
        return {}
    fields = dict.fromkeys(_FIELD.findall(message))
    return {field: macro for field in fields if (macro := load.setting_of(field)) != field}
