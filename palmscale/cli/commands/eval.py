"""`palmscale eval`: checkpoints on held-out text, on tasks of lm-eval, and on given text."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from palmscale.cli.argument_values import at_least, checkpoint_or_all, path
from palmscale.cli.parser import (
    add_adapter,
    add_command,
    add_modules,
    add_place,
    add_workdir,
)
from palmscale.errors import UserError

if TYPE_CHECKING:
    from palmscale.run.evaluate import Evaluated
    from palmscale.run.run import Run


def add(commands: Any) -> None:
    """Adds the command."""
    command = add_command(
        commands,
        "eval",
        evaluate,
        "Evaluate checkpoints on held-out text, on tasks (extra `eval`) or on given text.",
        gin=True,
    )
    add_workdir(command)
    add_adapter(command)
    command.add_argument(
        "--checkpoint",
        type=checkpoint_or_all,
        default="latest",
        metavar="WHICH",
        help="latest (default), best, a step, or all",
    )
    command.add_argument(
        "--average",
        type=at_least(int, 1),
        default=1,
        metavar="N",
        help="average the parameters of the last N checkpoints",
    )
    command.add_argument(
        "--tasks",
        type=_names,
        default=[],
        metavar="A,B",
        help="tasks of lm-eval, or the suite palm-29, in place of the held-out text",
    )
    command.add_argument(
        "--include_path", type=path, metavar="DIR", help="a folder of task files (yaml) of your own"
    )
    command.add_argument(
        "--num_fewshot",
        type=at_least(int, 0),
        metavar="N",
        help="examples before each question (default: as each task has it)",
    )
    command.add_argument(
        "--limit",
        type=at_least(float, 0.0),
        metavar="N",
        help="documents of each task: a number, or a share below 1",
    )
    command.add_argument(
        "--text_files",
        action="append",
        default=[],
        metavar="FILES",
        help="text to measure perplexity on, in place of the held-out text; repeat it for more",
    )
    command.add_argument(
        "--context_length",
        type=at_least(int, 2),
        metavar="N",
        help="tokens that tasks and text show at once (default: those of a row in training)",
    )
    command.add_argument("--json", type=path, metavar="FILE", help="also write the results there")
    add_modules(command)
    add_place(command)


def evaluate(args: argparse.Namespace) -> None:
    """Prints the metrics of the chosen checkpoints; process 0 prints for all."""
    from palmscale.observe import log

    log.set_up()
    given = args.tasks or args.text_files
    found = _on_tasks_and_text(args) if given else _on_held_out_text(args)
    if found[0].leads:
        _show(found)
        if args.json is not None:
            results = [{"step": one.step, **one.metrics} for one in found]
            with open(args.json, "w", encoding="utf-8") as file:
                json.dump(results, file, indent=1)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError(f"{text!r} names no task; give names such as hellaswag")
    return names


def _on_tasks_and_text(args: argparse.Namespace) -> "list[Evaluated]":
    from palmscale.cli.place import command_of, place_of
    from palmscale.evals.suite import suite_tasks
    from palmscale.evals.text import TextEvaluation
    from palmscale.evals.workdir import evaluate_workdir

    def opened() -> list[Any]:
        of_tasks = {
            "include_path": args.include_path,
            "num_fewshot": args.num_fewshot,
            "limit": args.limit,
        }
        text = [TextEvaluation(files=tuple(args.text_files))] if args.text_files else []
        return text + ([suite_tasks(args.tasks, **of_tasks)] if args.tasks else [])

    return evaluate_workdir(
        args.workdir,
        opened,
        checkpoint=args.checkpoint,
        context_length=args.context_length,
        adapter=args.adapter,
        average=args.average,
        modules=args.modules,
        place=place_of(args),
        command=command_of(args),
    )


def _on_held_out_text(args: argparse.Namespace) -> "list[Evaluated]":
    from palmscale.cli.config.load import load_run
    from palmscale.cli.place import command_of, place_of
    from palmscale.run.evaluate import evaluate_each

    run = load_run(args.gin_file, args.gin_bindings) if args.gin_file else _kept_run(args)
    return evaluate_each(
        run,
        args.workdir,
        checkpoint=args.checkpoint,
        adapter=args.adapter,
        average=args.average,
        place=place_of(args),
        command=command_of(args),
    )


def _show(found: "list[Evaluated]") -> None:
    from palmscale.observe.tables import print_table

    if len(found) == 1:
        print(f"step {found[0].step}")
        for name, value in found[0].metrics.items():
            print(f"{name} {value:.6f}")
        return
    names = dict.fromkeys(name for one in found for name in one.metrics)
    rows = [
        [name, *(f"{one.metrics[name]:.6f}" if name in one.metrics else "" for one in found)]
        for name in names
    ]
    print_table(
        ["metric", *(f"step {one.step}" for one in found)],
        rows,
        right=range(1, len(found) + 1),
        piped_width=60 + 16 * len(found),
    )


def _kept_run(args: argparse.Namespace) -> "Run":
    """Returns the run that the workdir's checkpoints describe, or its config.gin with changes."""
    from palmscale.cli.config.load import load_run
    from palmscale.run.stored_run import stored_run
    from palmscale.run.workdir import CONFIG
    from palmscale.storage.inside import inside
    from palmscale.storage.place import on_disk, place

    # What a checkpoint describes is evaluated without its optimizer, and so without its code.
    if not args.gin_bindings and (run := stored_run(args.workdir, args.modules)) is not None:
        return run
    config = inside(place(args.workdir), CONFIG)
    if config.is_file():
        with on_disk(config) as gin_file:
            return load_run([str(gin_file)], args.gin_bindings, modules=args.modules)
    why = "its checkpoints describe no run"
    if args.gin_bindings:
        why = f"--gin.{args.gin_bindings[0]} needs gin files"
    raise UserError(
        f"{why}, and {args.workdir} has no {CONFIG}; add --gin_file, or evaluate it on --tasks or"
        " --text_files."
    )
