"""`palmscale new`: a run file of one's own, for a size, a text and a vocabulary."""

import argparse
import os
import shlex
from typing import TYPE_CHECKING, Any

from palmscale.cli.parser import add_command
from palmscale.errors import UserError

if TYPE_CHECKING:
    from palmscale.run.run import Run

# Sizes with a run file of their own, which has the dimensions and batches of the paper.
_PUBLISHED = ("8b", "62b", "540b")


def add(commands: Any) -> None:
    """Adds the command."""
    command = add_command(
        commands, "new", new, "Write a gin file that trains a PaLM of a size on your text."
    )
    command.add_argument("file", metavar="FILE", help="the gin file to write, such as my.gin")
    command.add_argument(
        "--size",
        required=True,
        help=f"number of parameters, such as 2m, 10m, 125m or 1.5b; {', '.join(_PUBLISHED)}: the"
        " paper's models",
    )
    command.add_argument(
        "--text",
        metavar="FILES",
        help="text, .jsonl or .parquet files, such as 'my/*.txt' (default: the sources of Python's"
        " standard library)",
    )
    command.add_argument(
        "--vocab", metavar="MODEL", help="a SentencePiece .model or tokenizer.json (default: bytes)"
    )


def new(args: argparse.Namespace) -> None:
    """Writes the file, and loads it; an existing file is not replaced."""
    from palmscale.model.proportions import parameter_count

    if os.path.exists(args.file):
        raise UserError(f"{args.file} exists and is not replaced; choose another name.")
    text = _text(args)
    try:
        with open(args.file, "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"{args.file} cannot be written ({error.strerror}).") from None
    try:
        run = _checked(args.file)
    except BaseException:
        os.remove(args.file)
        raise
    print(
        f"{args.file}: PaLM of {parameter_count(run.model):,} parameters. Next: palmscale train"
        f" --gin_file={shlex.quote(args.file)}"
    )


def _checked(path: str) -> "Run":
    """Returns the run that a file describes, whose text exists."""
    from palmscale.cli.config.load import load_run

    run = load_run([path])
    run.data.corpus.source.shards()
    return run


def _text(args: argparse.Namespace) -> str:
    from palmscale.cli.config.syntax import binding
    from palmscale.data.vocabulary import vocabulary_named
    from palmscale.run.recommend import source_of

    vocabulary = vocabulary_named(args.vocab or "bytes")
    words = ["palmscale", "new", args.file, f"--size={args.size}"]
    words += [f"--text={args.text}"] if args.text else []
    words += [f"--vocab={args.vocab}"] if args.vocab else []
    lines = [f"# Written by: {shlex.join(words)}", "#"]
    lines += ["# See every setting: palmscale explain --settings --gin_file=" + args.file, ""]
    is_published = args.size.casefold() in _PUBLISHED
    lines += _published(args.size) if is_published else _sized(args.size, vocabulary.size)
    lines += ["", binding("NUM_TOKENS", vocabulary.size)]
    if args.vocab:
        lines.append(binding("VOCABULARY", args.vocab))
    if args.text:
        lines.append(binding(source_of(args.text).upper(), args.text))
    return "\n".join(lines) + "\n"


def _published(size: str) -> list[str]:
    return [f"include 'configs/runs/palm_{size.casefold()}.gin'"]


def _sized(size: str, num_tokens: int) -> list[str]:
    from palmscale.cli.config.syntax import binding
    from palmscale.model.proportions import palm_of_size, parse_size
    from palmscale.run.recommend import recommend

    parameters, multiple = parse_size(size), 16 if num_tokens < 1000 else 128
    model = palm_of_size(parameters, num_tokens=num_tokens, multiple=multiple)
    advice = recommend(parameters)
    fields = {f"PaLM.{name}": getattr(model, name) for name in ("dim", "depth", "heads")}
    fields |= {f"PaLM.{name}": getattr(model, name) for name in ("dim_head", "dtype", "remat")}
    settings = {
        "SEQUENCE_LENGTH": advice.sequence_length,
        "LOSS_CHUNK_LENGTH": min(512, advice.sequence_length),
        "BATCH_SCHEDULE": ((0, advice.batch_sequences),),
        "TRAIN_STEPS": advice.steps,
        "LEARNING_RATE_HOLD_STEPS": advice.hold_steps,
    }
    return [
        "include 'configs/runs/pretrain.gin'",
        "include 'configs/meshes/mesh.gin'",
        "",
        "MODEL = @PaLM()",
        *(binding(name, value) for name, value in fields.items()),
        "PaLM.num_tokens = %NUM_TOKENS",
        "PaLM.padded_tokens = @padded_tokens()",
        "padded_tokens.num_tokens = %NUM_TOKENS",
        binding("padded_tokens.multiple", multiple),
        "",
        "# 20 tokens per parameter.",
        *(binding(name, value) for name, value in settings.items()),
    ]
