"""The `palmscale` command: who answers it, its exit codes, and the one line that a mistake gets.

Exit codes: 0 done, 1 a fault, 2 the user's mistake, 75 restart me, 130 interrupted, 141 nobody
reads on.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from palmscale.cli import arguments as command_line
from palmscale.errors import UserError

MISTAKE, FAULT, INTERRUPTED, UNREAD = 2, 1, 130, 141


def run(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code; an error is one line on standard error."""
    debug = "--debug" in arguments
    interrupted = "interrupted"
    try:
        if not arguments:
            command_line.parser().print_help(sys.stderr)
            return MISTAKE
        args = command_line.parse(arguments)
        if args.command == "train":
            interrupted += f"; to go on from {args.workdir}, run the same command again"
        if (here := os.getcwd()) not in sys.path:
            sys.path.append(here)  # A gin file may import a module that stands beside it.
        module, _, function = args.function.partition(".")
        # Only now: most commands import JAX, and `--help` is to answer at once.
        code = getattr(importlib.import_module(f"palmscale.cli.{module}"), function)(args)
        sys.stdout.flush()
        return code or 0
    except UserError as error:
        return _fail(MISTAKE, str(error), debug)
    except KeyboardInterrupt:
        return _fail(INTERRUPTED, interrupted, debug)
    except BrokenPipeError:
        # The reader, `head` for one, has seen enough. Python would complain again while exiting.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    except Exception as error:
        remedy = "" if debug else " - run again with --debug for the traceback"
        return _fail(FAULT, f"{type(error).__name__}: {_one_line(error)}{remedy}", debug)


def _fail(code: int, message: str, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    print(f"palmscale: error: {_one_line(message)}", file=sys.stderr)
    return code


def _one_line(message: Any, limit: int = 1000) -> str:
    lines = str(message).strip().splitlines()
    return lines[0][:limit] if lines else "no message"


def main() -> NoReturn:
    """The console script: exits with the code of the command line's command."""
    sys.exit(run(sys.argv[1:]))
