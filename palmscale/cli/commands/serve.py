"""`palmscale serve`: a trained model behind HTTP, as OpenAI's clients expect it."""

import argparse
import functools
import importlib.util
import os
from pathlib import Path
from typing import Any

from palmscale.cli.argument_values import at_least, path
from palmscale.cli.parser import (
    add_adapter,
    add_checkpoint_choice,
    add_command,
    add_modules,
    add_place,
    add_workdir,
)
from palmscale.errors import UserError

KEY_VARIABLE = "PALMSCALE_API_KEY"


def add(commands: Any) -> None:
    """Adds the command."""
    command = add_command(commands, "serve", serve, "Serve a trained model over HTTP.")
    add_workdir(command)
    add_checkpoint_choice(command)
    add_adapter(command)
    add_modules(command)
    number = at_least(int, 1)
    command.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine")
    command.add_argument(
        "--port", type=at_least(int, 0, 65535), default=8000, metavar="N", help="default: 8000"
    )
    command.add_argument(
        "--model_name", metavar="NAME", help="what clients call it (default: the folder's name)"
    )
    command.add_argument(
        "--slots", type=number, default=8, metavar="N", help="sequences decoded together (8)"
    )
    command.add_argument(
        "--context_length", type=number, default=2048, metavar="N", help="default: 2048 tokens"
    )
    command.add_argument(
        "--quantize", choices=("int8", "int4", "fp8"), help="type of the weights (default: stored)"
    )
    command.add_argument(
        "--speculate_tokens", type=at_least(int, 0), default=0, metavar="N",
        help="tokens that greedy text may foresee from itself in a step (0)",
    )  # fmt: skip
    command.add_argument(
        "--waiting_sequences", type=at_least(int, 0), default=256, metavar="N",
        help="sequences that may wait for a slot (256); further requests get 429",
    )  # fmt: skip
    command.add_argument(
        "--drain_seconds", type=at_least(float, 0), default=60.0, metavar="S",
        help="time that open requests get after SIGTERM (60)",
    )  # fmt: skip
    command.add_argument(
        "--api_key_file", type=path, metavar="FILE",
        help=f"a file with the key that clients send (default: ${KEY_VARIABLE}, or none)",
    )  # fmt: skip
    command.add_argument(
        "--cors_origin", action="append", default=[], metavar="ORIGIN", dest="cors_origins",
        help="let pages of this origin use the server; repeat it to name more",
    )  # fmt: skip
    command.add_argument("--log_prompts", action="store_true", help="log the text of prompts")
    add_place(command)


def serve(args: argparse.Namespace) -> None:
    """Serves until it is asked to end."""
    missing = [name for name in ("starlette", "uvicorn", "pydantic") if not _installed(name)]
    if missing:
        raise UserError(
            f"serve needs {', '.join(missing)}; install with `pip install 'palmscale[serve]'`."
        )
    from palmscale.cli.place import command_of, place_of
    from palmscale.observe import log
    from palmscale.run.job import joined
    from palmscale.serve.app import Access
    from palmscale.serve.desk import follow
    from palmscale.serve.limits import Limits
    from palmscale.serve.load import load_served
    from palmscale.serve.server import Address, Server

    log.set_up()
    access = Access(
        api_key=_api_key(args.api_key_file),
        cors_origins=tuple(args.cors_origins),
        log_prompts=args.log_prompts,
    )
    limits = Limits(waiting_sequences=args.waiting_sequences, drain_seconds=args.drain_seconds)
    with joined(place_of(args), simulated_devices=None, command=command_of(args)) as job:
        load = functools.partial(
            load_served,
            args.workdir,
            args.checkpoint,
            adapter=args.adapter,
            modules=args.modules,
            peers=job.peers,
            name=args.model_name,
            slots=args.slots,
            context_length=args.context_length,
            quantize=args.quantize,
            speculate_tokens=args.speculate_tokens,
        )
        broadcast = functools.partial(job.peers.broadcast, "orders")
        if not job.leads:
            follow(load, lambda: broadcast(None))
            return
        Server(
            load,
            address=Address(host=args.host, port=args.port),
            limits=limits,
            access=access,
            say=log.say,
            warn=log.warn,
            share=broadcast if job.peers.count > 1 else None,
        ).run()


def _api_key(file: str | None) -> str | None:
    if file is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        key = Path(file).read_text().strip()
    except OSError as error:
        raise UserError(f"cannot read --api_key_file={file}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UserError(f"--api_key_file={file} is not UTF-8; write the key as text.") from None
    if not key:
        raise UserError(f"--api_key_file={file} is empty; write a key in it.")
    return key


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
