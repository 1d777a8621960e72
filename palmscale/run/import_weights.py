"""Imports weights of another program into a run's folder."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from flax import linen as nn

from palmscale import axes
from palmscale.checkpoint.first_step import write_first_step
from palmscale.checkpoint.lease import Lease
from palmscale.data.vocabulary import Vocabulary, vocabulary_named
from palmscale.errors import UserError
from palmscale.interop import layouts
from palmscale.interop import tensors as ts
from palmscale.interop.layouts import ImportLayout, Incoming, Options
from palmscale.model import interface
from palmscale.observe import progress
from palmscale.run import devices
from palmscale.run.identity import describe
from palmscale.run.likeliest import likeliest
from palmscale.run.versions import versions
from palmscale.run.workdir import CHECKPOINTS, VOCABULARY, Workdir, checkpoints
from palmscale.storage.place import local_path, place

_CONTEXT_LENGTH = 2048  # where neither the file nor the user says it: the paper's


@dataclasses.dataclass(frozen=True, kw_only=True)
class Imported:
    """What was imported, as the checkpoint of step 0.

    Attributes:
        model: the module.
        num_params: in all.
        vocabulary: of its tokens.
        choice: the options that the text decided; None: the file left nothing open.
    """

    model: nn.Module
    num_params: int
    vocabulary: Vocabulary
    choice: Options | None


def import_weights(
    source: str | Path,
    layout: str,
    workdir: Workdir,
    *,
    vocabulary: str | None = None,
    context_length: int | None = None,
    padded_tokens: int | None = None,
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
        context_length: tokens that the model was trained to see at once; None: as the source says,
            or 2048.
        padded_tokens: rows of the token table, those added being zeros, so that it divides over a
            mesh; None: as the source has it.
        text_files: glob patterns of text whose perplexity decides what the source leaves open.
        options: what the source does not say of its model.

    Raises:
        UserError: the source is not of this layout or not whole, the vocabulary does not fit the
            model, or `workdir` has checkpoints.
        NotSaved: it could not be written.
    """
    _check_free(workdir)
    found = layouts.import_layout(layout)
    _check_options(found, layout, options)
    path = local_path(source)
    if not path.exists():
        raise UserError(f"source={source} does not exist; correct the path.")
    candidates = found.read(path, options)
    opened = _vocabulary(vocabulary, candidates[0])
    _check_sizes(opened, candidates[0].model)
    devices.start(None)
    chosen = _padded(likeliest(candidates, opened, tuple(text_files)), padded_tokens)
    meta = _meta(chosen, opened, context_length) | {
        "imported": {"layout": layout, "source": path.absolute().name}
    }
    with Lease(workdir) as lease:
        folder = place(workdir) / VOCABULARY
        folder.mkdir(parents=True, exist_ok=True)
        opened.save(folder)
        with progress.bar("Importing") as shown:
            params = ts.watched(chosen.params, shown)
            write_first_step(place(workdir) / CHECKPOINTS, params, meta=meta, lease=lease)
    return Imported(
        model=chosen.model,
        num_params=meta["num_params"],
        vocabulary=opened,
        choice=chosen.choice if len(candidates) > 1 else None,
    )


def _check_free(workdir: Workdir) -> None:
    if not (place(workdir) / CHECKPOINTS).is_dir():
        return
    reader = checkpoints(workdir)
    # An import that was killed leaves an unfinished step.
    if reader.strays() or any(info.state != "unfinished" for info in reader.steps()):
        raise UserError(f"{workdir} has checkpoints already; choose a folder that has none.")


def _check_options(found: ImportLayout, layout: str, options: Options) -> None:
    given = [name for name, value in dataclasses.asdict(options).items() if value is not None]
    if unknown := [name for name in given if name not in found.options]:
        known = ", ".join(found.options) or "none"
        raise UserError(
            f"the layout {layout} does not take the option {', '.join(unknown)}; it takes: {known}."
        )


def _vocabulary(name: str | None, incoming: Incoming) -> Vocabulary:
    if name is None and incoming.vocabulary is None:
        raise UserError(
            "the source has no vocabulary that palmscale knows; choose one: vocabulary=bytes, or"
            " the path of a SentencePiece model or tokenizer.json."
        )
    if name is None:
        return incoming.vocabulary
    return vocabulary_named(name)


def _check_sizes(vocabulary: Vocabulary, model: nn.Module) -> None:
    num_tokens = interface.num_tokens(model)
    if num_tokens is not None and vocabulary.size > num_tokens:
        raise UserError(
            f"the vocabulary {vocabulary.name} has {vocabulary.size:,} tokens, and the model's"
            f" table has {num_tokens:,} rows; choose the vocabulary that it was trained with."
        )


def _padded(incoming: Incoming, rows: int | None) -> Incoming:
    if rows is None:
        return incoming
    table = incoming.params["embedding"]
    missing = rows - table.shape[0]
    if missing < 0:
        raise UserError(
            f"padded_tokens={rows} is less than the {table.shape[0]:,} rows of the token table;"
            " choose as many or more."
        )
    zeros = ts.of_array(np.zeros((missing, table.shape[1]), table.dtype))
    return dataclasses.replace(
        incoming,
        model=dataclasses.replace(incoming.model, padded_tokens=rows),
        params={**incoming.params, "embedding": ts.concatenate([table, zeros], 0)},
    )


def _meta(incoming: Incoming, vocabulary: Vocabulary, length: int | None) -> dict[str, Any]:
    return {
        "identity": {"model": describe(incoming.model)},
        "vocabulary": vocabulary.description(),
        "sequence_length": length or incoming.context_length or _CONTEXT_LENGTH,
        "num_params": sum(tensor.size for tensor in incoming.params.values()),
        "operative_config": "",
        "mesh": {name: 1 for name in (axes.REPLICA, axes.DATA, axes.MODEL)},
        "versions": versions(),
    }
