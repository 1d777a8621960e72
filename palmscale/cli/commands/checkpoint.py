"""`palmscale checkpoint ls`, `show`, `verify`, `pin` and `unpin`: what a run has saved."""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from typing import Any

from palmscale.cli.argument_values import checkpoint_or_all
from palmscale.cli.commands import (
    checkpoint_diff,
    checkpoint_export,
    checkpoint_import,
    checkpoint_merge,
    checkpoint_quantize,
)
from palmscale.cli.parser import add_checkpoint_choice, add_command, add_workdir
from palmscale.errors import UserError
from palmscale.observe.controls import escaped


def add(commands: Any) -> None:
    """Adds the checkpoint commands and their flags."""
    summary = "List, inspect, verify, compare, pin, export and import checkpoints."
    top = commands.add_parser("checkpoint", help=summary, description=summary)
    inner = top.add_subparsers(
        title="commands", metavar="COMMAND", dest="subcommand", required=True
    )
    add_workdir(add_command(inner, "ls", ls, "List the checkpoints of a run."))
    command = add_command(inner, "show", show, "Show what a checkpoint contains.")
    add_workdir(command)
    add_checkpoint_choice(command)
    command.add_argument(
        "--config", action="store_true", help="print the gin configuration of the run"
    )
    command = add_command(
        inner, "verify", verify, "Read every byte; exit code 1 if any is damaged."
    )
    add_workdir(command)
    command.add_argument(
        "--checkpoint",
        type=checkpoint_or_all,
        default="all",
        metavar="WHICH",
        help="all (default), latest, best, or a step",
    )
    checkpoint_diff.add(inner)
    checkpoint_quantize.add(inner)
    checkpoint_merge.add(inner)
    checkpoint_export.add(inner)
    checkpoint_import.add(inner)
    for name, function, summary in (
        ("pin", pin, "Keep a checkpoint until it is unpinned."),
        ("unpin", unpin, "Return a checkpoint to the run's keep policy."),
    ):
        command = add_command(inner, name, function, summary)
        add_workdir(command)
        add_checkpoint_choice(command)


def ls(args: argparse.Namespace) -> None:
    """Prints every step, its state, size, metrics and age."""
    from palmscale.checkpoint.policy import KeepPolicy, ranked_by_metric
    from palmscale.observe import tables, units
    from palmscale.run import workdir

    reader = workdir.checkpoints(args.workdir)
    infos = workdir.saved_steps(reader)
    metrics = {info.step: info.metrics for info in infos if info.verified}
    best = ranked_by_metric(metrics, KeepPolicy.best_metric)[:1]
    names = list(dict.fromkeys(name for info in infos for name in info.metrics))
    rows = [
        [
            f"{info.step:,}{' (best)' if info.step in best else ''}",
            f"{info.state}{', pinned' if info.pinned else ''}",
            units.size(info.bytes) if info.verified else "",
            *(f"{info.metrics[name]:.4f}" if name in info.metrics else "" for name in names),
            age(time.time() - info.time) if info.verified else "",
        ]
        for info in infos
    ]
    rows += [[name, f"not used: {why}"] for name, why in reader.strays().items()]
    headings = ("step", "state", "size", *names, "age")
    tables.print_table(headings, rows, right=range(2, len(headings)))


def show(args: argparse.Namespace) -> None:
    """Prints a checkpoint's meta and arrays, or its gin configuration."""
    from palmscale.checkpoint import digest
    from palmscale.checkpoint.steps import CURSOR, StepFolders
    from palmscale.observe import tables, units
    from palmscale.run import workdir
    from palmscale.run.stored_meta import read_meta

    reader = workdir.checkpoints(args.workdir)
    info = workdir.choose(reader, args.checkpoint)
    meta = read_meta(reader, info.step)
    if args.config:
        text = meta["operative_config"]
        print(escaped(text) if sys.stdout.isatty() else text, end="")
        return
    directory = reader.directory / str(info.step)
    saved = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(info.time))
    facts = [
        ("step", f"{info.step:,}, {units.size(info.bytes)}, saved {saved}"),
        ("metrics", "  ".join(f"{k} {v:.4f}" for k, v in info.metrics.items()) or "none"),
        ("parameters", f"{meta['num_params']:,}"),
        ("mesh", " x ".join(f"{name}={size}" for name, size in meta["mesh"].items())),
        ("versions", "  ".join(f"{name} {version}" for name, version in meta["versions"].items())),
        ("vocabulary", _flat(meta["vocabulary"])),
        ("row", f"{meta['sequence_length']:,} tokens"),
        ("cursor", json.dumps(StepFolders(reader.directory).read_json(info.step, CURSOR))),
    ]
    facts += [(name, _flat(value)) for name, value in meta["identity"].items()]
    if quantized := meta.get("quantized"):
        facts.append(("weights", quantized))
    if imported := meta.get("imported"):
        facts.append(("imported", _flat(imported)))
    if warm_start := meta.get("warm_start"):
        facts.append(("warm start", _flat(warm_start)))
    # 0.1.0 called the history the run's course.
    history = meta.get("spike_history") or meta.get("course")
    facts += [("rewind", _rewind(record)) for record in history["rewinds"]] if history else []
    tables.print_facts(facts)
    print()
    _print_arrays(digest.read_manifest(directory).get("arrays", {}))
    print("\n--config prints the gin configuration.")


def verify(args: argparse.Namespace) -> int:
    """Reads every byte of the chosen steps; returns 1 if any is damaged.

    A step that was never finished, or a folder that is not the step it is named after, is listed
    and does not count as damage: it is never used.
    """
    from palmscale.checkpoint.steps import StepFolders
    from palmscale.observe import tables, units
    from palmscale.run import workdir

    reader = workdir.checkpoints(args.workdir)
    infos = workdir.saved_steps(reader)
    if isinstance(args.checkpoint, int):
        infos = [info for info in infos if info.step == args.checkpoint]
    if not infos or args.checkpoint in ("latest", "best"):
        infos = [workdir.choose(reader, args.checkpoint)]
    folders, rows, damaged = StepFolders(reader.directory), [], 0
    for info in infos:
        if info.state == "unfinished":
            rows.append([f"{info.step:,}", "unfinished", "", "never used"])
            continue
        found = folders.damages(info.step)
        if not folders.path(info.step).exists():
            continue  # The running job deleted it meanwhile.
        if not found and info.state == "corrupt":
            found = ["all files are intact: rename its CORRUPT to VERIFIED to use it again"]
        if not found and info.state == "unmarked":
            rows.append(
                [f"{info.step:,}", "unmarked", "", "intact; resume the run to mark it again"]
            )
            continue
        damaged += bool(found)
        within = f"{folders.path(info.step)}/"
        size = units.size(info.bytes) if info.verified else ""
        first, *more = [line.replace(within, "") for line in found] or [""]
        rows.append([f"{info.step:,}", "damaged" if found else "good", size, first])
        rows += [["", "", "", line] for line in more]
    if args.checkpoint == "all":
        rows += [[name, "not used", "", why] for name, why in reader.strays().items()]
    tables.print_table(("step", "state", "size", "what is wrong"), rows)
    return 1 if damaged else 0


def pin(args: argparse.Namespace) -> None:
    """Keeps a step until it is unpinned, also while its run continues."""
    from palmscale.checkpoint.steps import StepFolders
    from palmscale.run import workdir

    reader = workdir.checkpoints(args.workdir)
    step = workdir.choose(reader, args.checkpoint).step
    StepFolders(reader.directory).pin(step)
    print(f"The checkpoint of step {step:,} is pinned: it is kept until it is unpinned.")


def unpin(args: argparse.Namespace) -> None:
    """Returns a step to the run's keep policy."""
    from palmscale.checkpoint.steps import StepFolders
    from palmscale.run import workdir

    reader = workdir.checkpoints(args.workdir)
    info = workdir.choose(reader, args.checkpoint)
    if not info.pinned:
        pinned = ", ".join(str(one.step) for one in reader.steps() if one.pinned) or "none"
        raise UserError(
            f"--checkpoint={args.checkpoint}: step {info.step} is not pinned; pinned: {pinned}."
        )
    StepFolders(reader.directory).unpin(info.step)
    print(f"The checkpoint of step {info.step:,} is no longer pinned.")


def age(seconds: float) -> str:
    """Returns a duration in the one unit that fits it: `3 h`."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _rewind(record: Mapping[str, Any]) -> str:
    return (
        f"from step {record['found']:,} to {record['rewound_to']:,}: {record['reason']};"
        f" {record['skipped_rows']:,} rows skipped"
    )


def _print_arrays(arrays: Mapping[str, Mapping[str, Any]]) -> None:
    from palmscale.observe import tables

    rows = [
        [
            f"{item}/{name}",
            " ".join(map(str, array["shape"])),
            array["dtype"],
            array["fingerprint"] or "",
        ]
        for item, described in arrays.items()
        for name, array in described.items()
    ]
    tables.print_table(("array", "shape", "dtype", "fingerprint"), rows)


def _flat(value: Any) -> str:
    """Returns a JSON value in one line, as a person would write it: `depth=4 heads=4`."""
    if isinstance(value, Mapping):
        return "  ".join(f"{name}={_inner(item)}" for name, item in value.items())
    return str(value)


def _inner(value: Any) -> str:
    return f"({_flat(value)})" if isinstance(value, Mapping) else str(value)
