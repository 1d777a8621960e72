"""Exports a checkpoint to the layout of another program."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from palmscale.interop import layouts
from palmscale.run.workdir import Workdir


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        step: of the checkpoint.
        path: the file or folder.
        checked: a sentence of what was compared; None: nothing was.
    """

    step: int
    path: Path
    checked: str | None


def export(
    workdir: Workdir,
    to: str,
    output: str | Path,
    *,
    checkpoint: int | str = "latest",
    dtype: str | None = None,
    average: int = 1,
    license: str | None = None,
    check: bool = True,
    modules: Iterable[str] = (),
) -> Exported:
    """Writes the weights of a checkpoint, and its vocabulary where the layout has one.

    Parts are read and written one after another, so that a model of any size needs little memory.

    Args:
        workdir: the run's folder.
        to: the layout, of `palmscale.interop.layouts.EXPORTS`.
        output: the file or folder to write, which does not exist.
        checkpoint: `latest`, `best` or a step.
        dtype: of the weights; None: the layout's default.
        average: of how many checkpoints, up to this one, the parameters are averaged.
        license: for the model card.
        check: whether logits are compared before the output gets its name.
        modules: to import, whose Linen modules the checkpoint may name; see `palmscale.load`.

    Raises:
        UserError: there is no such checkpoint, the layout cannot express its model, or `output`
            exists.
        RuntimeError: the written weights do not give the model's logits.
    """
    layout = layouts.export_layout(to)
    raise NotImplementedError(layout)
