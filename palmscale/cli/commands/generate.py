"""`palmscale generate`: text from a trained model."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palmscale.cli.argument_values import at_least, path, share
from palmscale.cli.commands.lines_flags import add_lines, lines_of, read_text, write_text
from palmscale.cli.parser import (
    add_adapter,
    add_checkpoint_choice,
    add_command,
    add_modules,
    add_place,
    add_workdir,
)
from palmscale.errors import UserError

if TYPE_CHECKING:
    from palmscale.cluster.job import Job
    from palmscale.infer.continuation import TextRequest
    from palmscale.run.trained import Trained

_FIELDS = (
    *("max_tokens", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty"),
    *("frequency_penalty", "seed", "stop", "min_tokens", "ignore_eos", "top_logprobs"),
    *("json_schema", "regex"),
)
_INTERACTIVE_CONTEXT = 2048


def add(commands: Any) -> None:
    """Adds the command."""
    command = add_command(commands, "generate", generate, "Write text with a trained model.")
    add_workdir(command)
    add_checkpoint_choice(command)
    add_adapter(command)
    add_modules(command)
    prompt = command.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", default="", help="the text to continue (default: none)")
    prompt.add_argument(
        "--prompt_file",
        type=path,
        metavar="FILE",
        help="a file with the text to continue; -: standard input",
    )
    prompt.add_argument(
        "--interactive", action="store_true", help="continue each line that is typed"
    )
    add_lines(command, prompt, '{"id": ..., "prompt": ..., "max_tokens": ..., "stop": ..., ...}')
    _add_sampling(command)
    batch = command.add_argument_group("several texts")
    batch.add_argument("--num_samples", type=at_least(int, 1), default=1, metavar="N")
    batch.add_argument(
        "--slots",
        type=at_least(int, 1),
        default=32,
        metavar="N",
        help="lines that are continued at once (default: 32)",
    )
    batch.add_argument(
        "--reuse_prefixes",
        action="store_true",
        help="compute equal beginnings of lines once; rounding may then change a text",
    )
    beams = command.add_argument_group("beam search", "In place of sampling.")
    beams.add_argument("--beams", type=at_least(int, 1), metavar="N", help="texts that are kept")
    beams.add_argument(
        "--length_penalty", type=at_least(float, 0), default=0.6, metavar="X", help="default: 0.6"
    )
    add_place(command)


def _add_sampling(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("sampling", "A line of --jsonl may have its own values.")
    for flag, kind, metavar, help in (
        ("max_tokens", at_least(int, 1), "N", "default: 256"),
        ("min_tokens", at_least(int, 0), "N", "tokens before the text may end (default: 0)"),
        ("temperature", at_least(float, 0), "T", "default: 0.8"),
        ("top_k", at_least(int, 1), "K", "choose among the K likeliest tokens"),
        ("top_p", share, "P", "choose among the likeliest that hold P in all"),
        ("min_p", at_least(float, 0, 1), "P", "... that have P of the likeliest's probability"),
        ("repetition_penalty", float, "X", "for all tokens so far (default: 1, none)"),
        ("presence_penalty", float, "X", "for tokens written so far (default: 0)"),
        ("frequency_penalty", float, "X", "... for each time (default: 0)"),
        ("seed", int, "N", "default: 0; the same seed writes the same text"),
        ("top_logprobs", at_least(int, 0, 100), "N", "log-probabilities, with the N likeliest"),
    ):
        group.add_argument(f"--{flag}", type=kind, metavar=metavar, help=help)
    group.add_argument(
        "--json_schema", type=_schema, metavar="FILE", help="the text is a value of this schema"
    )
    group.add_argument("--regex", metavar="R", help="the text matches R (both need llguidance)")
    group.add_argument("--greedy", action="store_true", help="always the likeliest token")
    group.add_argument(
        "--stop", action="append", metavar="TEXT", help="ends the text; repeat it to add more"
    )
    group.add_argument(
        "--logit_bias", action="append", type=_bias, metavar="ID:X", help="repeat it, as --stop"
    )
    group.add_argument(
        "--ignore_eos", action="store_true", default=None, help="go on after the document's end"
    )


def generate(args: argparse.Namespace) -> None:
    """Writes text to stdout, as it grows for one sample; process 0 writes for all."""
    from palmscale.cli.place import command_of, place_of
    from palmscale.observe import log
    from palmscale.run.batch import PromptLine, generate_lines
    from palmscale.run.job import joined
    from palmscale.run.load import load

    log.set_up()
    _refuse_unused(args)
    request = _request(args)
    with joined(place_of(args), simulated_devices=None, command=command_of(args)) as job:

        def trained() -> "Trained":
            return load(
                args.workdir,
                args.checkpoint,
                adapter=args.adapter,
                modules=args.modules,
                peers=job.peers,
            )

        if args.jsonl is not None:
            keywords = {name: getattr(args, name) for name in ("slots", "reuse_prefixes")}
            lines_of(
                *(args, job.peers, PromptLine),
                lambda lines, done: generate_lines(
                    *(trained, lines, done),
                    defaults=request,
                    num_samples=args.num_samples,
                    **keywords,
                ),
            )
        elif args.interactive:
            _interact(trained, request, job)
        else:
            _continue(args, trained, request, job)


def _refuse_unused(args: argparse.Namespace) -> None:
    """Raises UserError for flags that would have no effect."""
    wanted = ("out", "top_logprobs", "reuse_prefixes") if args.jsonl is None else ()
    if unused := [name for name in wanted if getattr(args, name) not in (None, False)]:
        args.parser.error(f"--{unused[0]} needs --jsonl")
    if args.beams and (args.jsonl is not None or args.interactive or args.num_samples > 1):
        args.parser.error("--beams continues one prompt; give --prompt or --prompt_file alone")
    if args.interactive and args.num_samples > 1:
        args.parser.error("--interactive writes one sample; leave --num_samples out")


def _continue(args: argparse.Namespace, load: Any, request: "TextRequest", job: "Job") -> None:
    """Continues one prompt: a single text as it grows, or several one after the other."""
    import dataclasses

    from palmscale.cluster.jointly import shared_text

    if args.prompt_file is not None:
        read = lambda: read_text("prompt_file", args.prompt_file)  # noqa: E731
        prompt = shared_text(job.peers, "the prompt", read, job.deadlines.join_seconds)
        request = dataclasses.replace(request, prompt=prompt)
    write = write_text if job.leads else lambda text: None
    if args.beams:
        search = {"beams": args.beams, "length_penalty": args.length_penalty, "donate": True}
        found = load().beams(request.prompt, max_tokens=request.max_tokens, **search)
        for number, (text, beam) in enumerate(found):
            scores = f"score {beam.score:.4f}, log-probability {beam.log_probability:.4f}"
            write(f"--- beam {number}: {scores}\n{request.prompt}{text}\n")
        return
    requests = request.sampled(args.num_samples)
    pieces = load().continued(requests, slots=len(requests), donate=True)
    if len(requests) == 1:
        write(request.prompt)
        for _, piece in pieces:
            write(piece.text)
        write("\n")
        return
    texts = [""] * len(requests)
    for number, piece in pieces:
        texts[number] += piece.text
    for number, text in enumerate(texts):
        write(f"--- sample {number}\n{request.prompt}{text}\n")


def _interact(load: Any, request: "TextRequest", job: "Job") -> None:
    from palmscale.observe import log
    from palmscale.run.interactive import interact

    if job.peers.count > 1:
        raise UserError("--interactive needs a single process; use --jsonl, or palmscale serve.")
    trained = load()
    length = max(_INTERACTIVE_CONTEXT, 2 * request.max_tokens)
    engine = trained.engine(slots=1, context_length=length, donate=True)
    interact(
        *(engine, trained.vocabulary, request),
        read=_typed,
        write=write_text,
        complain=log.warn,
    )


def _typed() -> str:
    """Returns the next line of standard input."""
    if sys.stdin.isatty():
        return input("> ")
    if not (line := sys.stdin.readline()):
        raise EOFError
    return line.rstrip("\n")


def _request(args: argparse.Namespace) -> "TextRequest":
    from palmscale.infer.continuation import TextRequest

    given = {name: getattr(args, name) for name in (*_FIELDS, "temperature")}
    if args.greedy:
        given["temperature"] = 0.0
    bias = dict(args.logit_bias or [])
    fields = {name: value for name, value in given.items() if value is not None}
    return TextRequest(prompt=args.prompt, logit_bias=bias, **fields)


def _bias(text: str) -> tuple[int, float]:
    token_id, _, bias = text.partition(":")
    try:
        return int(token_id), float(bias)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not ID:X, as in 50:-100") from None


def _schema(file: str) -> dict[str, Any]:
    try:
        schema = json.loads(Path(file).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{file} holds no JSON schema: {error}") from None
    if not isinstance(schema, dict):
        raise argparse.ArgumentTypeError(f"{file} holds no JSON schema: it is no object")
    return schema
