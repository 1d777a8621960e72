"""A run's folder: every name in it, and which of its checkpoints is meant."""

import os
from pathlib import Path
from typing import Any

from palmscale.checkpoint.object_lease import LEASE
from palmscale.checkpoint.policy import KeepPolicy, ranked_by_metric
from palmscale.checkpoint.reader import CheckpointReader
from palmscale.checkpoint.steps import StepInfo
from palmscale.errors import UserError
from palmscale.interop.foreign import foreign_layout
from palmscale.observe.reporting import METRICS, TENSORBOARD
from palmscale.storage.inside import inside
from palmscale.storage.objects import ObjectPath
from palmscale.storage.place import Place, place

CHECKPOINTS, CONFIG, VOCABULARY = "checkpoints", "config.gin", "vocabulary"
PLAN, PLAN_PAGE = "plan.json", "plan.html"
NAMES = (CHECKPOINTS, CONFIG, VOCABULARY, PLAN, PLAN_PAGE, LEASE, METRICS, TENSORBOARD)

Workdir = str | os.PathLike[str] | ObjectPath


def checkpoints(workdir: Workdir, **options: Any) -> CheckpointReader:
    """Returns the checkpoints of a run, to be read.

    Raises:
        UserError: there is no run.
    """
    directory = place(workdir) / CHECKPOINTS
    if not directory.is_dir():
        raise _no_run(workdir)
    return CheckpointReader(directory, **options)


def _no_run(workdir: Workdir) -> UserError:
    folder = place(workdir)
    if isinstance(folder, Path) and (layout := foreign_layout(folder)):
        return UserError(
            f"{workdir} holds weights in the layout {layout} and no run; first make a run's folder"
            f" of them: import_weights({str(workdir)!r}, {layout!r}, workdir)"
        )
    return UserError(f"there is no run in {workdir} ({CHECKPOINTS}/ is missing); name its folder.")


def own_folder(workdir: Workdir) -> Place:
    """Returns the folder of a run that is to write there.

    Raises:
        CorruptionError: a file that it writes is a link out of the folder, which would be
            overwritten.
    """
    folder = place(workdir)
    for name in (CONFIG, METRICS, LEASE, PLAN, PLAN_PAGE):
        inside(folder, name)
    return folder


def choose(reader: CheckpointReader, which: int | str) -> StepInfo:
    """Returns the verified step that `latest`, `best` or a number names.

    Raises:
        UserError: there is none.
    """
    infos = {info.step: info for info in saved_steps(reader)}
    verified = [info for info in infos.values() if info.verified]
    step: Any = which
    if which == "latest":
        step = max((info.step for info in verified), default=None)
    elif which == "best":
        metrics = {info.step: info.metrics for info in verified}
        step = next(iter(ranked_by_metric(metrics, KeepPolicy.best_metric)), None)
    if step not in infos or not infos[step].verified:
        known = ", ".join(str(info.step) for info in verified) or "none"
        other = [f"{name}: {why}" for name, why in reader.strays().items()]
        other += [
            f"{info.step}: its VERIFIED is missing, which training restores if the files are intact"
            for info in infos.values()
            if info.state == "unmarked"
        ]
        told = f" ({'; '.join(other)})" if other else ""
        raise UserError(
            f"there is no verified checkpoint {which} in {reader.directory}; verified: {known}"
            f"{told}."
        )
    return infos[step]


def saved_steps(reader: CheckpointReader) -> list[StepInfo]:
    """Returns every step on disk, oldest first.

    Raises:
        UserError: there is none.
    """
    infos = reader.steps()
    if not infos and not reader.strays():
        raise UserError(
            f"there is no checkpoint in {reader.directory}; train first, or name another folder."
        )
    return infos
