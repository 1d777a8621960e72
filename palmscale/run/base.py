"""What a fine-tune takes over from the run whose parameters it starts with: its base.

A gin file calls these functions (configs/runs/finetune.gin), so the base's fields need not be
repeated. They read meta.json alone.
"""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flax import linen as nn

from palmscale.data.vocabulary import Vocabulary, load_vocabulary
from palmscale.errors import UserError
from palmscale.run.nearest import did_you_mean
from palmscale.run.place import cache_directory
from palmscale.run.rebuild import fields_of, hints_of, rebuild
from palmscale.run.stored_meta import Meta, read_meta
from palmscale.run.workdir import VOCABULARY, checkpoints
from palmscale.storage.inside import inside
from palmscale.storage.place import on_disk, place
from palmscale.storage.typed_json import misfit


def base_model(workdir: str, changes: dict[str, Any] | None = None) -> nn.Module:
    """Returns the module of a workdir's checkpoints.

    It imports nothing: a module of the user's own must have been imported, as by the gin file.

    Args:
        workdir: the base's folder.
        changes: fields to change, such as {'dropout': 0.1, 'remat': 'full'}. Parameters must keep
            their names and shapes.

    Raises:
        UserError: there is no checkpoint, it names a class that it may not, or the module has no
            such field.
    """
    described = _meta(workdir)["identity"].get("model")
    try:
        model = rebuild(described, base=nn.Module)
    except UserError as error:
        raise type(error)(
            f"base_model.workdir={workdir!r}: {error} Import the module that defines it in the gin"
            " file, or bind Run.model itself."
        ) from error
    _check_fields(type(model), changes or {})
    return model.clone(**changes or {})


def base_vocabulary(workdir: str) -> str:
    """Returns the vocabulary of a workdir's model, as `Data.vocabulary` takes it.

    The file of a workdir in a bucket is copied to the user's cache folder.

    Args:
        workdir: the base's folder.

    Raises:
        UserError: there is no checkpoint.
    """
    described = _meta(workdir)["vocabulary"]
    if "file" not in described:
        return described["kind"]
    folder = place(workdir) / VOCABULARY
    if isinstance(folder, Path):
        return str(inside(folder, described["file"]))
    with on_disk(folder) as copy:
        vocabulary = load_vocabulary(described, copy)
    return str(inside(_kept(vocabulary), described["file"]))


def base_sequence_length(workdir: str) -> int:
    """Returns the tokens per row with which a workdir's model was trained.

    Args:
        workdir: the base's folder.

    Raises:
        UserError: there is no checkpoint.
    """
    return _meta(workdir)["sequence_length"]


def _kept(vocabulary: Vocabulary) -> Path:
    """Returns a folder with the vocabulary's files, which appears whole: processes share it."""
    kept = cache_directory() / "vocabularies" / vocabulary.digest
    if not kept.is_dir():
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=kept.parent))
        vocabulary.save(partial)
        try:
            partial.rename(kept)
        except OSError:  # another process was first
            shutil.rmtree(partial)
    return kept


def _meta(workdir: str) -> Meta:
    try:
        return read_meta(checkpoints(workdir))
    except UserError as error:
        raise type(error)(f"base_model.workdir={workdir!r} is no base: {error}") from error


def _check_fields(kind: type, changes: Mapping[str, Any]) -> None:
    fields, hints = fields_of(kind), hints_of(kind)
    for name, value in changes.items():
        if name not in fields:
            raise UserError(
                f"base_model.changes has {name!r}, but {kind.__name__} has no such"
                f" field{did_you_mean(name, fields)}"
            )
        if flaw := misfit(value, hints.get(name, Any)):
            raise UserError(
                f"base_model.changes gives {kind.__name__}.{name} another type: {flaw}."
            )
