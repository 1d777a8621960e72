"""`palmscale checkpoint import`: weights of another program as a run's first checkpoint."""

import argparse
from typing import Any

from palmscale.cli.argument_values import at_least, path
from palmscale.cli.parser import add_command, add_workdir

# The fields of `palmscale.interop.layouts.Options`, with their types and meanings.
_OPTIONS = {
    "heads": (at_least(int, 1), "number of query heads"),
    "dim_head": (at_least(int, 1), "size of a head"),
    "norm_scale_offset": (float, "a stored norm scale s acts as s + this"),
    "final_norm": (str, "scaled, unscaled or none"),
}


def add(commands: Any) -> None:
    """Adds `import` and its flags to the checkpoint commands."""
    summary = "Take over the weights of another program, to generate, serve, evaluate and train."
    command = add_command(commands, "import", import_weights, summary)
    command.add_argument(
        "--from",
        dest="layout",
        required=True,
        metavar="LAYOUT",
        help="hf, safetensors, ...; see docs/interop.md",
    )
    command.add_argument(
        "--input", type=path, required=True, dest="source", help="the file or folder"
    )
    add_workdir(command, help="the new run's folder, or gs://BUCKET/PATH")
    command.add_argument(
        "--vocabulary",
        metavar="NAME",
        help="bytes, raw_bytes, or the path of a SentencePiece model or tokenizer.json (default:"
        " the input's own)",
    )
    command.add_argument(
        "--context_length",
        type=at_least(int, 1),
        metavar="N",
        help="tokens per row in training (default: as the input says, or 2048)",
    )
    command.add_argument(
        "--padded_tokens",
        type=at_least(int, 1),
        metavar="N",
        help="rows of the token table, so that it divides over a mesh (default: as the input has)",
    )
    command.add_argument(
        "--text_files",
        action="append",
        default=[],
        metavar="GLOB",
        help="text whose perplexity decides what the input leaves open; repeat it for more",
    )
    group = command.add_argument_group("what the input may not say of its model")
    for name, (kind, meaning) in _OPTIONS.items():
        group.add_argument(f"--{name}", type=kind, metavar="VALUE", help=meaning)


def import_weights(args: argparse.Namespace) -> None:
    """Writes the checkpoint of step 0, and prints what was imported."""
    from palmscale.interop.layouts import Options
    from palmscale.observe import log
    from palmscale.run import import_weights as imports

    log.set_up()
    fields = ("vocabulary", "context_length", "padded_tokens", "text_files")
    found = imports.import_weights(
        args.source,
        args.layout,
        args.workdir,
        options=Options(**{name: getattr(args, name) for name in _OPTIONS}),
        **{name: getattr(args, name) for name in fields},
    )
    print(
        f"Imported {found.num_params:,} parameters and the vocabulary {found.vocabulary.name}"
        f" ({found.vocabulary.size:,} tokens) to {args.workdir}."
    )
    if found.choice is not None:
        given = {name: getattr(found.choice, name) for name in _OPTIONS}
        told = " ".join(f"--{name}={value}" for name, value in given.items() if value is not None)
        print(f"The text decided for {told}.")
