"""`palmscale generate`: text from a trained model."""

import argparse
import collections
import sys
from pathlib import Path
from typing import Any

from palmscale.cli.argument_values import at_least, path, share
from palmscale.cli.parser import (
    add_checkpoint_choice,
    add_command,
    add_modules,
    add_place,
    add_workdir,
)
from palmscale.errors import UserError
from palmscale.observe.controls import escaped
from palmscale.seeds import LEAST, MOST


def add(commands: Any) -> None:
    """Adds the command."""
    command = add_command(commands, "generate", generate, "Write text with a trained model.")
    add_workdir(command)
    add_checkpoint_choice(command)
    add_modules(command)
    prompt = command.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", default="", help="the text to continue (default: none)")
    prompt.add_argument(
        "--prompt_file", type=path, metavar="FILE", help="a file with the text to continue"
    )
    command.add_argument(
        "--max_tokens", type=at_least(int, 1), default=256, metavar="N", help="default: 256"
    )
    command.add_argument(
        "--num_samples", type=at_least(int, 1), default=1, metavar="N", help="default: 1"
    )
    command.add_argument(
        "--temperature", type=at_least(float, 0), default=0.8, metavar="T", help="default: 0.8"
    )
    command.add_argument(
        "--top_k", type=at_least(int, 1), metavar="K", help="choose among the K likeliest tokens"
    )
    command.add_argument(
        "--top_p", type=share, metavar="P", help="choose among the likeliest that hold P in all"
    )
    command.add_argument("--greedy", action="store_true", help="always the likeliest token")
    command.add_argument(
        "--seed",
        type=at_least(int, LEAST, MOST),
        default=0,
        metavar="N",
        help="default: 0; the same seed writes the same text",
    )
    add_place(command)


def generate(args: argparse.Namespace) -> None:
    """Writes text to stdout, as it grows for one sample; process 0 writes for all."""
    from palmscale.cli.place import command_of, place_of
    from palmscale.infer.sampling import Sampling
    from palmscale.observe import log
    from palmscale.run.job import joined
    from palmscale.run.load import load

    log.set_up()
    prompt = args.prompt if args.prompt_file is None else _read(args.prompt_file)
    sampling = Sampling(
        temperature=0.0 if args.greedy else args.temperature, top_k=args.top_k, top_p=args.top_p
    )
    wanted = {"max_tokens": args.max_tokens, "sampling": sampling, "seed": args.seed}
    with joined(place_of(args), simulated_devices=None, command=command_of(args)) as job:
        trained = load(args.workdir, args.checkpoint, modules=args.modules, peers=job.peers)
        if args.num_samples == 1:
            pieces = trained.stream(prompt, **wanted)
            if not job.leads:
                collections.deque(pieces, maxlen=0)
                return
            _write(prompt)
            for piece in pieces:
                _write(piece)
            _write("\n")
            return
        texts = trained.samples(prompt, num_samples=args.num_samples, **wanted)
        if job.leads:
            for number, text in enumerate(texts):
                _write(f"--- sample {number}\n{prompt}{text}\n")


def _write(text: str) -> None:
    # A model may have learned to write what a terminal would obey.
    sys.stdout.write(escaped(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def _read(path: str) -> str:
    try:
        return Path(path).read_bytes().decode()
    except OSError as error:
        raise UserError(f"cannot read --prompt_file={path}: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"--prompt_file={path} is not UTF-8 at byte {error.start}; save it as UTF-8."
        ) from None
