"""`palmscale verify-resume`: a killed and resumed run equals one that was not killed."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from palmscale.cli.argument_values import at_least
from palmscale.cli.parser import add_command, add_workdir, require_gin_files


def add(commands: Any) -> None:
    """Adds the command and its flags."""
    summary = "Show that a run which is killed and resumed equals one that is not."
    command = add_command(commands, "verify-resume", verify_resume, summary, gin=True)
    command.set_defaults(complete=require_gin_files)
    add_workdir(command, help="an empty folder for both runs")
    count = at_least(int, 1)
    command.add_argument(
        "--steps", type=count, default=20, metavar="N", help="before the kill (default: 20)"
    )
    command.add_argument(
        "--more", type=count, default=20, metavar="M", help="after the kill (default: 20)"
    )
    command.add_argument("--processes", type=count, default=1, metavar="P", help="default: 1")
    command.add_argument(
        "--resume_processes", type=count, metavar="P", help="after the kill (default: as before)"
    )
    command.add_argument(
        "--resume_with",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a gin setting of the resumed run, such as another mesh; repeat it for more",
    )


def verify_resume(args: argparse.Namespace) -> int:
    """Prints what was compared; exit code 1 if anything is different."""
    from palmscale.observe import log, tables
    from palmscale.run import verify_resume as library

    log.set_up()

    def command(workdir: Path, step_log: Path, resumes: bool) -> Sequence[str]:
        return _train_command(args, workdir, step_log, args.resume_with if resumes else ())

    certificate = library.verify_resume(
        command,
        workdir=args.workdir,
        environment=os.environ,
        steps=args.steps,
        more=args.more,
        processes=args.processes,
        resume_processes=args.resume_processes,
        resumed_with=args.resume_with,
    )
    rows = [(check.what, check.verdict, check.detail) for check in certificate.checks]
    tables.print_table(("compared", "verdict", ""), rows)
    path = Path(args.workdir) / library.CERTIFICATE
    log.say(f"{'Verified' if certificate.good else 'NOT verified'}: {path}")
    return 0 if certificate.good else 1


def _train_command(
    args: argparse.Namespace, workdir: Path, step_log: Path, resume_with: Sequence[str]
) -> list[str]:
    save_every = max(args.steps // 2, 1)
    own = {
        "TRAIN_STEPS": args.steps + args.more,
        "SAVE_EVERY_STEPS": save_every,
        "KEEP_EVERY_STEPS": save_every,  # all of them: the restored one is compared
        "SAMPLE_PROMPT": None,
    }
    given = [*args.gin_bindings, *resume_with]
    # The last of two bindings wins.
    bindings = [text for text in given if text.partition("=")[0] not in own]
    bindings += [f"{name}={value}" for name, value in own.items()]
    return [
        *(sys.executable, "-m", "palmscale", "train"),
        *(f"--gin_file={file}" for file in args.gin_file),
        f"--workdir={workdir}",
        f"--step_log={step_log}",
        *(f"--gin.{binding}" for binding in bindings),
    ]
