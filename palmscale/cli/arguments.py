"""The command line's arguments: parsed, checked, and named after who answers them.

Nothing heavy is imported here, so that `--help` answers at once.
"""

import argparse
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import palmscale
from palmscale.cli.argument_values import at_least, checkpoint_or_all, share, stage, workdir
from palmscale.cli.command import (
    GIN_PREFIX,
    Parser,
    Raw,
    add_checkpoint_choice,
    add_command,
    add_place,
    add_workdir,
)
from palmscale.data.vocab_training import MAX_SIZE, MIN_SIZE, MODEL_TYPES


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the whole command line, but for `--gin.NAME=VALUE`."""
    top = Parser(
        prog="palmscale", description=palmscale.__doc__, epilog=_EPILOG, formatter_class=Raw
    )
    top.add_argument("--version", action="version", version=f"palmscale {palmscale.__version__}")
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = top.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", required=True
    )
    _add_training(commands)
    _add_generate(commands)
    _add_checkpoint(commands)
    _add_data(commands)
    _add_vocab(commands)
    return top


_EPILOG = """\
examples:
  palmscale train --gin_file=configs/runs/quickstart.gin
  palmscale train --gin_file=configs/runs/quickstart.gin --gin.TEXT_FILES='my/*.txt'
  palmscale generate --workdir=runs/quickstart --prompt='def main('
"""


def _add_training(commands: Any) -> None:
    train = add_command(
        commands,
        "train",
        "training.train",
        "Train a model, or go on where its workdir stopped.",
        gin=True,
    )
    train.add_argument(
        "--workdir",
        type=workdir,
        help="the run's folder, or gs://BUCKET/PATH (default: runs/<name of the gin file>)",
    )
    train.add_argument(
        "--inject",
        default="",
        metavar="FAULTS",
        help="put faults in, to see what is done about them: spike@120,nan@200",
    )
    train.add_argument(
        "--compiled_step",
        metavar="FILE",
        help="load the step that plan --save_step wrote; loading runs it: only files you trust",
    )
    train.add_argument(
        "--witness", metavar="FILE", help="note each step's batch and randomness there"
    )
    add_place(train)
    verify = add_command(
        commands,
        "verify-resume",
        "verify_resume.verify_resume",
        "Show that a run which is killed and resumed is the run that would have been.",
        gin=True,
    )
    verify.add_argument(
        "--workdir", type=workdir, required=True, help="an empty folder for both runs"
    )
    verify.add_argument(
        "--steps", type=at_least(int, 1), default=20, metavar="N", help="before the kill"
    )
    verify.add_argument(
        "--more", type=at_least(int, 1), default=20, metavar="M", help="after it (default: 20)"
    )
    verify.add_argument(
        "--processes", type=at_least(int, 1), default=1, metavar="P", help="default: 1"
    )
    verify.add_argument(
        "--resume_processes", type=at_least(int, 1), metavar="P", help="default: as before"
    )
    verify.add_argument(
        "--resume_with",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a gin setting of the resumed run, such as another mesh; repeat it for more",
    )
    evaluate = add_command(
        commands, "eval", "wiring.evaluate", "Evaluate a checkpoint on held-out text.", gin=True
    )
    add_workdir(evaluate)
    add_checkpoint_choice(evaluate)
    add_place(evaluate)
    _add_plan(commands)
    explain = add_command(
        commands,
        "explain",
        "plan.explain",
        "Show where every parameter lives, and its bytes a device.",
        gin=True,
    )
    explain.add_argument(
        "--compiled",
        action="store_true",
        help="compile the step for its topology too, and show its collectives and largest arrays",
    )
    _add_topology(explain)


def _add_plan(commands: Any) -> None:
    plan = add_command(
        commands,
        "plan",
        "plan.plan",
        "Tell whether a run fits on TPUs that are not here, and how fast it goes; exit code 1 if"
        " it does not fit.",
        gin=True,
    )
    _add_topology(plan)
    plan.add_argument(
        "--batch",
        type=stage,
        default="largest",
        metavar="N",
        help="sequences a step: largest (default) or all of the schedule's, or a number",
    )
    plan.add_argument(
        "--generate", action="store_true", help="plan generating text, in place of training"
    )
    plan.add_argument(
        "--prompt_tokens", type=at_least(int, 1), default=2048, metavar="N", help="default: 2048"
    )
    plan.add_argument(
        "--num_samples", type=at_least(int, 1), default=8, metavar="N", help="default: 8"
    )
    plan.add_argument(
        "--search",
        type=at_least(int, 1),
        metavar="N",
        help="compile the N most promising other layouts too, and write the best as found.gin",
    )
    plan.add_argument(
        "--suggest",
        type=at_least(int, 0),
        default=2,
        metavar="N",
        help="of a run that does not fit, how many near changes that do to find (default: 2)",
    )
    plan.add_argument(
        "--save_step", metavar="FILE", help="write the compiled step there, for train to load"
    )
    plan.add_argument(
        "--dollars_per_chip_hour", type=at_least(float, 0), metavar="D", help="to state a price"
    )
    plan.add_argument(
        "--workdir",
        type=workdir,
        help="where plan.json and plan.html go, and where train looks for them"
        " (default: runs/<name of the gin file>)",
    )


def _add_topology(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--topology", metavar="NAME", help="v4:12x16x16, v5p-256, v5e-256 (default: the gin files')"
    )
    command.add_argument("--slices", type=at_least(int, 1), metavar="N", help="how many of them")


def _add_generate(commands: Any) -> None:
    generate = add_command(
        commands, "generate", "samples.generate", "Write text with a trained model."
    )
    add_workdir(generate)
    add_checkpoint_choice(generate)
    prompt = generate.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", default="", help="the text to go on from (default: none)")
    prompt.add_argument("--prompt_file", metavar="FILE", help="a file with the text to go on from")
    generate.add_argument(
        "--max_tokens", type=at_least(int, 1), default=256, metavar="N", help="default: 256"
    )
    generate.add_argument(
        "--num_samples", type=at_least(int, 1), default=1, metavar="N", help="default: 1"
    )
    generate.add_argument(
        "--temperature", type=at_least(float, 0), default=0.8, metavar="T", help="default: 0.8"
    )
    generate.add_argument(
        "--top_k", type=at_least(int, 1), metavar="K", help="choose among the K likeliest tokens"
    )
    generate.add_argument(
        "--top_p", type=share, metavar="P", help="choose among the likeliest that hold P in all"
    )
    generate.add_argument("--greedy", action="store_true", help="always the likeliest token")
    generate.add_argument(
        "--seed", type=int, default=0, help="default: 0; the same seed writes the same text"
    )
    add_place(generate)


def _add_checkpoint(commands: Any) -> None:
    summary = "List, inspect, verify, compare and pin checkpoints."
    top = commands.add_parser("checkpoint", help=summary, description=summary)
    inner = top.add_subparsers(
        title="commands", metavar="COMMAND", dest="subcommand", required=True
    )
    add_workdir(add_command(inner, "ls", "checkpoints.ls", "List the checkpoints of a run."))
    show = add_command(inner, "show", "checkpoints.show", "Show what a checkpoint holds.")
    add_workdir(show)
    add_checkpoint_choice(show)
    show.add_argument(
        "--config", action="store_true", help="print the gin configuration it was trained with"
    )
    verify = add_command(
        inner, "verify", "checkpoints.verify", "Read every byte; exit code 1 if any is damaged."
    )
    add_workdir(verify)
    verify.add_argument(
        "--checkpoint",
        type=checkpoint_or_all,
        default="all",
        metavar="WHICH",
        help="all (default), latest, best, or a step",
    )
    diff = add_command(
        inner,
        "diff",
        "checkpoint_diff.diff",
        "Name the arrays and settings in which two checkpoints differ; exit code 1 if any does.",
    )
    for name in ("a", "b"):
        diff.add_argument(
            name,
            metavar=name.upper(),
            help="WORKDIR for its latest, WORKDIR@WHICH, or with --workdir a step, latest or best",
        )
    diff.add_argument("--workdir", type=workdir, help="the folder of the run that both are of")
    for name, does in (("pin", "Keep a checkpoint for good."), ("unpin", "Take a pin back.")):
        pin = add_command(inner, name, f"checkpoints.{name}", does)
        add_workdir(pin)
        add_checkpoint_choice(pin)


def _add_data(commands: Any) -> None:
    summary = "Build, check and look at row caches."
    top = commands.add_parser("data", help=summary, description=summary)
    inner = top.add_subparsers(
        title="commands", metavar="COMMAND", dest="subcommand", required=True
    )
    build = add_command(
        inner, "build", "rows.build", "Build the row caches that the gin files describe.", gin=True
    )
    _add_processes(build)
    build.add_argument(
        "--beam",
        metavar="FLAGS",
        help="build by Apache Beam, with these flags of it, as in --beam='--runner=FlinkRunner'",
    )
    verify = add_command(
        inner, "verify", "rows.verify", "Check every row against its digest.", gin=True
    )
    _add_cache(verify)
    _add_processes(verify)
    show = add_command(
        inner, "show", "show.show", "Show some rows as text, with statistics.", gin=True
    )
    _add_cache(show)
    show.add_argument("--rows", type=at_least(int, 1), default=3, metavar="N", help="default: 3")
    show.add_argument("--split", choices=("train", "validation"), default="train")
    show.add_argument(
        "--picture", metavar="FILE", help="draw the documents' lengths and sources, as PNG"
    )


def _add_processes(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--processes",
        type=at_least(int, 1),
        metavar="N",
        help="how many work at once (default: one a core)",
    )


def _add_vocab(commands: Any) -> None:
    summary = "Train and check SentencePiece vocabularies."
    top = commands.add_parser("vocab", help=summary, description=summary)
    inner = top.add_subparsers(
        title="commands", metavar="COMMAND", dest="subcommand", required=True
    )
    train = add_command(
        inner,
        "train",
        "vocabulary.train",
        "Train a vocabulary with PaLM's properties on the gin files' corpus"
        " (default: the standard library's sources).",
        gin=True,
    )
    train.add_argument(
        "--size",
        type=at_least(int, MIN_SIZE, MAX_SIZE),
        required=True,
        metavar="N",
        help=f"how many pieces, {MIN_SIZE} to {MAX_SIZE} as PaLM has",
    )
    train.add_argument("--out", required=True, metavar="FILE", help="the model to write")
    train.add_argument("--model_type", choices=MODEL_TYPES, default="bpe", help="default: bpe")
    train.add_argument(
        "--max_bytes",
        type=at_least(int, 1),
        default=200_000_000,
        metavar="N",
        help="of text to train on, a sample of the corpus (default: 200000000)",
    )
    train.add_argument("--seed", type=int, default=0, help="of the sample (default: 0)")
    check = add_command(
        inner,
        "check",
        "vocabulary.check",
        "Show that a vocabulary loses nothing, and measure it on held-out text.",
        gin=True,
    )
    check.add_argument("model", metavar="MODEL", help="the SentencePiece .model file")


def _add_cache(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "cache", nargs="?", metavar="CACHE", help="its folder, in place of gin files"
    )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Returns the parsed command line, with `--gin.NAME=VALUE` as `NAME=VALUE` in `gin_bindings`.

    Raises UserError for a mistake, with the nearest known command or flag.
    """
    bindings = [a.removeprefix(GIN_PREFIX) for a in arguments if a.startswith(GIN_PREFIX)]
    args, unknown = parser().parse_known_args(
        [a for a in arguments if not a.startswith(GIN_PREFIX)]
    )
    args.parser.refuse_unknown(unknown)
    for binding in bindings:
        if not args.gin:
            args.parser.error(f"{args.parser.prog} takes no {GIN_PREFIX}{binding}")
        if "=" not in binding:
            args.parser.error(
                f"{GIN_PREFIX}{binding} has no value; write {GIN_PREFIX}{binding}=VALUE"
            )
    args.gin_bindings = bindings
    if args.gin:
        _complete_gin_arguments(args)
    return args


def _complete_gin_arguments(args: argparse.Namespace) -> None:
    cache = getattr(args, "cache", None)
    if not args.gin_file and args.command == "vocab":
        args.gin_file = ["configs/data/text.gin"]
    if not args.gin_file and not cache and args.command != "eval":
        args.parser.error("no gin file; add --gin_file=configs/runs/quickstart.gin")
    if cache and (args.gin_file or args.gin_bindings):
        args.parser.error(f"both a cache ({cache}) and gin flags; give one of them")
    if args.command in ("train", "plan") and args.workdir is None:
        args.workdir = os.path.join("runs", pathlib.Path(args.gin_file[-1]).stem)
