"""The `palmscale` command: who answers it, and the one line that a mistake gets."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from palmscale.cli import arguments as command_line
from palmscale.cli.outcome import MISTAKE, UNREAD, one_line, outcome


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
        if importlib.util.find_spec("gcsfs") is not None:
            # For the paths of Orbax, which settle it at the first one: those of gs:// would go
            # through TensorFlow, if that is installed, and miss what gcsfs is told.
            os.environ.setdefault("EPATH_USE_TF", "0")
        module, _, function = args.function.partition(".")
        # Only now: most commands import JAX, and `--help` is to answer at once.
        code = getattr(importlib.import_module(f"palmscale.cli.{module}"), function)(args)
        sys.stdout.flush()
        return code or 0
    except BrokenPipeError:
        # The reader, `head` for one, has seen enough. Python would complain again while exiting.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    except (Exception, KeyboardInterrupt) as error:
        code, message = outcome(error, debug=debug)
        if isinstance(error, KeyboardInterrupt):
            message = interrupted
        if debug:
            import traceback

            traceback.print_exc()
        print(f"palmscale: error: {one_line(message)}", file=sys.stderr)
        return code


def main() -> NoReturn:
    """The console script: exits with the code of the command line's command."""
    sys.exit(run(sys.argv[1:]))
