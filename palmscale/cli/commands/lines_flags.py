"""The flags of commands that read JSON lines, and the standard streams that they may be."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palmscale.cli.argument_values import path
from palmscale.errors import UserError
from palmscale.observe.controls import escaped

if TYPE_CHECKING:
    from palmscale.cluster.agree import Peers


def add_lines(
    command: argparse.ArgumentParser, group: Any, line: str, *, required: bool = False
) -> None:
    """Adds --jsonl to a group of the command, which `line` is an example of, and --out."""
    group.add_argument(
        "--jsonl",
        type=path,
        required=required,
        metavar="FILE",
        help=f"a file with a JSON object a line, {line}; -: standard input",
    )
    command.add_argument(
        "--out",
        type=path,
        metavar="FILE",
        help="where the answers to --jsonl go (default: standard output); those that the file has"
        " are kept and not computed again",
    )


def lines_of(args: argparse.Namespace, peers: "Peers", form: Any, answer: Any) -> None:
    """Answers the lines of --jsonl; see `palmscale.run.batch.answer_lines`."""
    from palmscale.run.batch import answer_lines

    answer_lines(
        peers,
        read=lambda: read_text("jsonl", args.jsonl),
        source="standard input" if args.jsonl == "-" else args.jsonl,
        form=form,
        out=None if args.out == "-" else args.out,
        write=write_text,
        answer=answer,
    )


def read_text(flag: str, file: str) -> str:
    """Returns the text of a file, or of standard input for `-`."""
    try:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return content.decode()
    except OSError as error:
        raise UserError(f"cannot read --{flag}={file}: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"--{flag}={file} is not UTF-8 at byte {error.start}; save it as UTF-8."
        ) from None


def write_text(text: str) -> None:
    """Writes to standard output, as soon as it is called."""
    # A model may have learned to write what a terminal would obey.
    sys.stdout.write(escaped(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()
