"""Layouts that are one file of tensors, of a kind that its suffix says."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from palmscale.interop import tensors as lazy
from palmscale.interop.layouts import ExportLayout, ImportLayout, Incoming, Options, Outgoing
from palmscale.interop.tensor_files import read_tensors, write_tensors
from palmscale.interop.tensors import Tensor, Tensors
from palmscale.model.palm import PaLM


def export_to_file(exported: Callable[[PaLM, Tensors], Tensors]) -> ExportLayout:
    """Returns the layout whose tensors a function makes of a module and its parameters."""

    def write(outgoing: Outgoing, path: Path) -> None:
        tensors = exported(outgoing.model, outgoing.params)
        cast: dict[int, Tensor] = {}  # a table that is stored twice stays one tensor
        for tensor in tensors.values():
            cast.setdefault(id(tensor), lazy.cast(tensor, np.dtype(outgoing.dtype)))
        write_tensors(path, {name: cast[id(tensor)] for name, tensor in tensors.items()})

    return ExportLayout(dtypes=("float32", "bfloat16", "float16"), write=write)


def import_from_file(imported: Callable[[Tensors], tuple[PaLM, Tensors]]) -> ImportLayout:
    """Returns the layout whose module and parameters a function makes of its tensors."""

    def read(path: Path, options: Options) -> list[Incoming]:
        model, params = imported(read_tensors(path))
        return [Incoming(model=model, params=params)]

    return ImportLayout(read=read)
