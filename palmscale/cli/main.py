"""The `palmscale` command: its subcommands, and the one line that an error prints."""

import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import palmscale
from palmscale.cli import how_to_set
from palmscale.cli.commands import (
    checkpoint,
    data,
    env,
    explain,
    generate,
    new,
    plan,
    train,
    verify_resume,
    vocab,
)
from palmscale.cli.commands import eval as evaluate
from palmscale.cli.parser import Parser, Raw, parse
from palmscale.exit_codes import FAULT, MISTAKE, UNREAD, exit_code_and_line, one_line

# In the order of the help. Each module imports what is heavy when its command runs: --help is fast.
COMMANDS = (
    new,
    train,
    verify_resume,
    evaluate,
    plan,
    explain,
    generate,
    checkpoint,
    data,
    vocab,
    env,
)

_EPILOG = """\
examples:
  palmscale train --gin_file=configs/runs/quickstart.gin
  palmscale train --gin_file=configs/runs/quickstart.gin --gin.TEXT_FILES='my/*.txt'
  palmscale generate --workdir=runs/quickstart --prompt='def main('
"""


def parser() -> Parser:
    """Returns the parser of the whole command line, except for `--gin.NAME=VALUE`."""
    top = Parser(
        prog="palmscale", description=palmscale.__doc__, epilog=_EPILOG, formatter_class=Raw
    )
    top.add_argument("--version", action="version", version=f"palmscale {palmscale.__version__}")
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = top.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", required=True
    )
    for command in COMMANDS:
        command.add(commands)
    return top


def run(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code; an error prints one line on standard error."""
    debug = "--debug" in arguments
    args = None
    try:
        if not arguments:
            parser().print_help(sys.stderr)
            return MISTAKE
        args = parse(parser(), arguments)
        if (here := os.getcwd()) not in sys.path:
            sys.path.append(here)  # A gin file may import a module beside it.
        if importlib.util.find_spec("gcsfs") is not None:
            # Orbax decides at its first path: those of gs:// would go through TensorFlow, if that
            # is installed, and ignore what gcsfs is told.
            os.environ.setdefault("EPATH_USE_TF", "0")
        # As JAX sets it, which a module that imports TensorFlow may come before.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
        code = args.function(args)
        sys.stdout.flush()
        return code or 0
    except BrokenPipeError:
        # The reader, such as `head`, is done. Python would complain again while exiting.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    except (Exception, KeyboardInterrupt) as error:
        code, message = exit_code_and_line(error)
        if args is not None and not isinstance(error, KeyboardInterrupt):
            message += how_to_set.hint(message, args.parser.flags())
        if isinstance(error, KeyboardInterrupt) and getattr(args, "command", "") == "train":
            message += f"; to continue from {args.workdir}, run the same command again"
        if debug:
            import traceback

            traceback.print_exc()
        elif code == FAULT:
            message += "; run again with --debug for the traceback"
        print(f"palmscale: error: {one_line(message)}", file=sys.stderr)
        return code


def main() -> NoReturn:
    """The console script: exits with the command's exit code."""
    sys.exit(run(sys.argv[1:]))
