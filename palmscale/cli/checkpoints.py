"""`palmscale checkpoint ls`, `show`, `verify`, `pin` and `unpin`: what a run has saved."""

import argparse
import time
from collections.abc import Mapping
from typing import Any

from palmscale.checkpoint import digest
from palmscale.checkpoint.policy import KeepPolicy, ranked_by_metric
from palmscale.checkpoint.reader import CheckpointReader
from palmscale.checkpoint.steps import CURSOR, StepFolders, StepInfo
from palmscale.cli import tables
from palmscale.errors import UserError
from palmscale.observe import units
from palmscale.storage.place import place


def ls(args: argparse.Namespace) -> None:
    """`palmscale checkpoint ls`: prints every step, its state, size, metrics and age."""
    infos = _steps(opened(args.workdir))
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
    headings = ("step", "state", "size", *names, "age")
    tables.print_table(headings, rows, right=range(2, len(headings)))


def show(args: argparse.Namespace) -> None:
    """`palmscale checkpoint show`: prints a checkpoint's meta and arrays, and its gin file."""
    store = opened(args.workdir)
    info = chosen(store, args.checkpoint)
    meta = store.read_meta(info.step)
    assert meta is not None, "a verified step has a meta"
    if args.config:
        print(meta["operative_config"], end="")
        return
    directory = store.directory / str(info.step)
    saved = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(info.time))
    facts = [
        ("step", f"{info.step:,}, {units.size(info.bytes)}, saved {saved}"),
        ("metrics", "  ".join(f"{k} {v:.4f}" for k, v in info.metrics.items()) or "none"),
        ("parameters", f"{meta['num_params']:,}"),
        ("mesh", " x ".join(f"{name}={size}" for name, size in meta["mesh"].items())),
        ("versions", "  ".join(f"{name} {version}" for name, version in meta["versions"].items())),
        ("vocabulary", _flat(meta["vocabulary"])),
        ("row", f"{meta['sequence_length']:,} tokens"),
        ("cursor", digest.read_checked(directory, CURSOR).decode().replace("\n", "")),
    ]
    facts += [(name, _flat(value)) for name, value in meta["identity"].items()]
    if warm_start := meta.get("warm_start"):
        facts.append(("warm start", _flat(warm_start)))
    facts += [("rewind", _rewind(record)) for record in meta.get("course", {}).get("rewinds", [])]
    tables.print_facts(facts)
    print()
    _print_arrays(digest.read_manifest(directory)["arrays"])
    print("\n--config prints the gin configuration.")


def _rewind(record: Mapping[str, Any]) -> str:
    return (
        f"from step {record['found']:,} to {record['rewound_to']:,}: {record['reason']};"
        f" {record['skipped_rows']:,} rows left out"
    )


def verify(args: argparse.Namespace) -> int:
    """`palmscale checkpoint verify`: reads every byte of the steps asked for; 1 if any is damaged.

    A step that was never finished is listed, and is no damage: nothing ever uses it.
    """
    store = opened(args.workdir)
    infos = _steps(store)
    if isinstance(args.checkpoint, int):
        infos = [info for info in infos if info.step == args.checkpoint]
    if not infos or args.checkpoint in ("latest", "best"):
        infos = [chosen(store, args.checkpoint)]
    folders, rows, damaged = StepFolders(store.directory), [], 0
    for info in infos:
        if info.state == "unfinished":
            rows.append([f"{info.step:,}", "unfinished", "", "it is never used"])
            continue
        found = folders.damages(info.step)
        if not folders.path(info.step).exists():
            continue  # The run that is under way has let it go.
        if not found and info.state == "corrupt":
            found = ["all files are whole: rename its CORRUPT to VERIFIED to use it again"]
        damaged += bool(found)
        within = f"{folders.path(info.step)}/"
        size = units.size(info.bytes) if info.verified else ""
        told = "\n".join(line.replace(within, "") for line in found)
        rows.append([f"{info.step:,}", "damaged" if found else "good", size, told])
    tables.print_table(("step", "state", "size", "what is wrong"), rows)
    return 1 if damaged else 0


def pin(args: argparse.Namespace) -> None:
    """`palmscale checkpoint pin`: keeps a step for good, also while its run goes on."""
    store = opened(args.workdir)
    step = chosen(store, args.checkpoint).step
    StepFolders(store.directory).pin(step)
    print(f"The checkpoint of step {step:,} is pinned: it is kept until it is unpinned.")


def unpin(args: argparse.Namespace) -> None:
    """`palmscale checkpoint unpin`: leaves a step to the run's keep policy again."""
    store = opened(args.workdir)
    info = chosen(store, args.checkpoint)
    if not info.pinned:
        pinned = ", ".join(str(info.step) for info in store.steps() if info.pinned) or "none"
        raise UserError(
            f"--checkpoint={args.checkpoint}: step {info.step} is not pinned; pinned are: {pinned}."
        )
    StepFolders(store.directory).unpin(info.step)
    print(f"The checkpoint of step {info.step:,} is no longer pinned.")


def age(seconds: float) -> str:
    """Returns a duration in the one unit that fits it: `3 h`."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def opened(workdir: str) -> CheckpointReader:
    """Returns the checkpoints of a run; UserError where there is no run."""
    directory = place(workdir) / "checkpoints"
    if not directory.is_dir():
        raise UserError(f"there is no run in {workdir} (checkpoints/ is missing); name its folder.")
    return CheckpointReader(directory)


def chosen(store: CheckpointReader, which: int | str) -> StepInfo:
    """Returns the verified step that `latest`, `best` or a number names; else UserError."""
    infos = {info.step: info for info in _steps(store)}
    verified = [info for info in infos.values() if info.verified]
    known = ", ".join(str(info.step) for info in verified) or "none"
    step: Any = which
    if which == "latest":
        step = max((info.step for info in verified), default=None)
    elif which == "best":
        metrics = {info.step: info.metrics for info in verified}
        step = next(iter(ranked_by_metric(metrics, KeepPolicy.best_metric)), None)
    if step not in infos or not infos[step].verified:
        raise UserError(
            f"--checkpoint={which}: no such verified checkpoint in {store.directory}; "
            f"there are: {known}."
        )
    return infos[step]


def _steps(store: CheckpointReader) -> list[StepInfo]:
    infos = store.steps()
    if not infos:
        raise UserError(
            f"there is no checkpoint in {store.directory}; train first, or name another."
        )
    return infos


def _print_arrays(arrays: Mapping[str, Mapping[str, Any]]) -> None:
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
