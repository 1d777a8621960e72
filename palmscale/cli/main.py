"""The `palmscale` command: its subcommands, and the one line that an error prints."""

import importlib.util
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import palmscale
from palmscale.cli import how_to_set
from palmscale.cli.commands import (
    check_module,
    checkpoint,
    data,
    env,
    explain,
    generate,
    new,
    plan,
    score,
    serve,
    train,
    verify_resume,
    vocab,
)
from palmscale.cli.commands import eval as evaluate
from palmscale.cli.parser import Parser, Raw, parse
from palmscale.errors import AskedToEnd
from palmscale.exit_codes import MISTAKE, UNREAD, exit_code_and_line
from palmscale.observe.streams import close_standard_streams, open_standard_streams

# In the order of the help. Each module imports what is heavy when its command runs: --help is fast.
COMMANDS = (
    new,
    train,
    verify_resume,
    evaluate,
    plan,
    explain,
    generate,
    score,
    serve,
    checkpoint,
    data,
    vocab,
    check_module,
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
        names_code = any(getattr(args, name, None) for name in ("gin_file", "modules", "module"))
        if names_code and (here := os.getcwd()) not in sys.path:
            # A gin file may import a module beside it. Other commands find no code here: it may be
            # a folder that was downloaded.
            sys.path.append(here)
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
    except (Exception, KeyboardInterrupt, AskedToEnd) as error:
        code, message = exit_code_and_line(error)
        if debug:
            import traceback

            traceback.print_exc()
        line = message if args is None else how_to_set.explained(args, code, message)
        print(f"palmscale: error: {line}", file=sys.stderr)
        return code


def main() -> NoReturn:
    """The console script: exits with the command's exit code."""
    open_standard_streams()
    code = run(sys.argv[1:])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # A late signal must not replace the exit code.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    close_standard_streams()
    sys.exit(code)
