"""`palmscale train`: trains a run, or resumes it where its folder stands."""

import argparse
import shlex
import signal
from typing import Any

from palmscale.cli.argument_values import path
from palmscale.cli.parser import add_command, add_place, add_run_workdir
from palmscale.exit_codes import RESTART_ME


def add(commands: Any) -> None:
    """Adds the command."""
    command = add_command(
        commands, "train", train, "Train a model, or resume where its workdir stopped.", gin=True
    )
    add_run_workdir(command)
    command.add_argument(
        "--inject",
        default="",
        metavar="FAULTS",
        help="inject faults, for testing: spike@120,nan@200",
    )
    command.add_argument(
        "--compiled_step",
        type=path,
        metavar="FILE",
        help="load the step that plan --save_step wrote; loading runs it: only files you trust",
    )
    command.add_argument(
        "--step_log",
        type=path,
        metavar="FILE",
        help="log each step's batch and randomness there",
    )
    add_place(command)


def train(args: argparse.Namespace) -> int:
    """Trains; returns 75 where the run was preempted, having saved."""
    from palmscale.cli.config.load import load_run, operative_config, setting_of
    from palmscale.cli.place import command_of, place_of
    from palmscale.cluster.preempt import end_before_training
    from palmscale.model import interface
    from palmscale.observe import log
    from palmscale.run import stable_names
    from palmscale.run.train import Debugging
    from palmscale.run.train import train as train_run
    from palmscale.train.faults import parse_faults

    signal.signal(signal.SIGTERM, end_before_training)
    log.set_up()
    debugging = Debugging(
        faults=parse_faults(args.inject),
        step_file=args.compiled_step,
        step_log=args.step_log,
    )
    run = load_run(args.gin_file, args.gin_bindings)
    result = train_run(
        run,
        args.workdir,
        place_of(args),
        config=operative_config(),
        command=command_of(args),
        debugging=debugging,
    )
    if not result.finished:
        log.say(f"Asked to end: saved step {result.step:,}. The same command resumes from it.")
        return RESTART_ME
    next_command = ""
    if interface.generates(run.model):
        prompt = run.reporting.sample_prompt or ""
        words = ["palmscale", "generate", f"--workdir={result.workdir}", f"--prompt={prompt}"]
        module, is_own, _ = stable_names.name_of(type(run.model)).partition(":")
        words += [f"--module={module}"] if is_own else []
        next_command = f" Next: {shlex.join(words)}"
    if not result.metrics:
        log.say(
            f"There is nothing to do: {result.workdir} stands at step {result.step:,} of"
            f" {run.training.steps:,}. To train on, raise {setting_of('Training.steps')}."
            f"{next_command}"
        )
    else:
        log.say(
            f"Trained {result.step:,} steps; checkpoints are in {result.workdir}.{next_command}"
        )
    return 0
