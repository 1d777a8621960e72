"""Exports a checkpoint to the layout of another program."""

import dataclasses
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flax import linen as nn

from palmscale.checkpoint.average import averaged_in_parts, last_steps
from palmscale.checkpoint.reader import CheckpointReader
from palmscale.data.vocabulary import load_vocabulary
from palmscale.errors import UserError
from palmscale.interop import layouts
from palmscale.interop import tensors as ts
from palmscale.interop.layouts import ExportLayout, Outgoing
from palmscale.observe import progress
from palmscale.run.named_classes import import_modules
from palmscale.run.rebuild import rebuild
from palmscale.run.stored_meta import (
    Meta,
    check_trainable,
    check_whole,
    has_adapters,
    read_meta,
)
from palmscale.run.workdir import VOCABULARY, Workdir, checkpoints, choose
from palmscale.storage.objects import SCHEME
from palmscale.storage.place import local_path, on_disk, place


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        step: of the checkpoint.
        path: the file or folder.
        bytes: of it.
        checked: a sentence of what was compared; None: nothing was.
    """

    step: int
    path: Path
    bytes: int
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
    language: str | None = None,
    check: bool = True,
    modules: Iterable[str] = (),
) -> Exported:
    """Writes the weights of a checkpoint, and its vocabulary where the layout has one.

    Parts are read and written one after another, so that a model of any size needs little memory.
    The output gets its name once it is whole and checked.

    Args:
        workdir: the run's folder.
        to: the layout, of `palmscale.interop.layouts.EXPORTS`.
        output: the file or folder to write, which does not exist.
        checkpoint: `latest`, `best` or a step.
        dtype: of the weights; None: the layout's default.
        average: of how many checkpoints, up to this one, the parameters are averaged.
        license: for the model card, as Hugging Face names it: `apache-2.0`.
        language: for the model card: `en`.
        check: whether logits are compared before the output gets its name.
        modules: to import, whose Linen modules the checkpoint may name; see `palmscale.load`.

    Raises:
        UserError: there is no such checkpoint, the layout cannot express its model, or `output`
            exists.
        RuntimeError: the written weights do not give the model's logits.
    """
    layout = layouts.export_layout(to)
    kind = _checked_dtype(layout, to, dtype)
    path = _free_path(output)
    reader = checkpoints(workdir)
    info = choose(reader, checkpoint)
    meta = read_meta(reader, info.step)
    check_trainable(meta, reader)
    _check_holds(layout, to, meta, reader)
    if layout.holds_adapters and average > 1:
        raise UserError(f"average={average}: adapters are not averaged; leave it out.")
    modules = tuple(modules)
    import_modules(modules)
    steps = last_steps(reader.verified_steps(), info.step, average)
    origin = _origin(workdir, meta, step=info.step, averaged=len(steps))
    with on_disk(place(workdir) / VOCABULARY) as folder:
        vocabulary = load_vocabulary(meta["vocabulary"], folder)
    outgoing = Outgoing(
        model=rebuild(meta["identity"].get("model"), modules, nn.Module),
        params=averaged_in_parts(reader, steps),
        vocabulary=vocabulary,
        context_length=meta["sequence_length"],
        dtype=kind,
        origin=origin | {"license": license, "language": language},
    )
    with progress.bar("Exporting") as shown:
        watched = dataclasses.replace(outgoing, params=ts.watched(outgoing.params, shown))
        checked = _write(layout, watched, path, check=check)
    written = sum(file.stat().st_size for file in _files(path))
    return Exported(step=info.step, path=path, bytes=written, checked=checked)


def _write(layout: ExportLayout, outgoing: Outgoing, path: Path, *, check: bool) -> str | None:
    # A file keeps its suffix, by which a check knows it.
    partial = path.with_name(f"partial-{path.name}")
    _remove(partial)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        layout.write(outgoing, partial)
        checked = layout.check(outgoing, partial) if check and layout.check else None
        for file in _files(partial):
            _flush(file)
        if path.is_dir():
            path.rmdir()  # it is empty
        partial.rename(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error}); make room, or choose another."
        ) from error
    finally:
        _remove(partial)
    return checked


def _check_holds(layout: ExportLayout, name: str, meta: Meta, reader: CheckpointReader) -> None:
    """Raises UserError where one holds adapters (LoRA) and the other whole parameters."""
    if not layout.holds_adapters:
        check_whole(meta, reader)
    elif not has_adapters(meta):
        raise UserError(
            f"the layout {name} holds adapters, and the run in {reader.directory.parent} has none;"
            " name a run that trained adapters (Lora), or choose another layout."
        )


def _checked_dtype(layout: ExportLayout, name: str, dtype: str | None) -> str:
    if dtype is not None and dtype not in layout.dtypes:
        raise UserError(
            f"dtype={dtype} is not one of the layout {name}; expected {', '.join(layout.dtypes)}."
        )
    return dtype or layout.dtypes[0]


def _free_path(output: str | Path) -> Path:
    if str(output).startswith(SCHEME):
        raise UserError(f"output={output} must be on a disk of this machine; copy it from there.")
    path = local_path(output).absolute()
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise UserError(f"output={output} exists; choose another, or remove it.")
    return path


def _origin(workdir: Workdir, meta: Meta, **facts: Any) -> dict[str, Any]:
    data = meta["identity"].get("data")
    digest = data.get("digest") if isinstance(data, Mapping) else None
    imported = meta.get("imported")
    return {
        "name": place(workdir).absolute().name,
        "num_params": meta["num_params"],
        "datasets": digest if isinstance(digest, Mapping) else {"": digest} if digest else {},
        "lora": meta["identity"].get("trainable"),
        "base": meta.get("warm_start"),
        "imported": f"{imported['source']} ({imported['layout']})" if imported else None,
        **facts,
    }


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]


def _flush(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
