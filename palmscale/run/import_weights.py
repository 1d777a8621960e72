"""Imports weights of another program into a run's folder."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from flax import linen as nn

from palmscale.interop import layouts
from palmscale.interop.layouts import Options
from palmscale.run.workdir import Workdir


@dataclasses.dataclass(frozen=True, kw_only=True)
class Imported:
    """What was imported, as the checkpoint of step 0.

    Attributes:
        model: the module.
        num_params: in all.
        vocabulary: a description in words.
    """

    model: nn.Module
    num_params: int
    vocabulary: str


def import_weights(
    source: str | Path,
    layout: str,
    workdir: Workdir,
    *,
    vocabulary: str | None = None,
    text_files: Iterable[str] = (),
    options: Options = Options(),
) -> Imported:
    """Writes the weights of a file or folder of another program as the checkpoint of step 0.

    The folder then generates, scores, serves, and starts other runs. Parts are read and written one
    after another, so that a model of any size needs little memory.

    Args:
        source: the file or folder.
        layout: of it, of `palmscale.interop.layouts.IMPORTS`.
        workdir: the run's folder, which has no checkpoints.
        vocabulary: `bytes`, `raw_bytes`, or the path of a SentencePiece model or tokenizer.json;
            None: the source's own.
        text_files: text whose perplexity decides what the file leaves open.
        options: what the file does not say of its model.

    Raises:
        UserError: the source is not of this layout or not whole, the vocabulary does not fit the
            model, or `workdir` has checkpoints.
        NotSaved: it could not be written.
    """
    found = layouts.import_layout(layout)
    raise NotImplementedError(found)
