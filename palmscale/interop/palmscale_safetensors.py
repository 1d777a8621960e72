"""palmscale's own layout: one safetensors file with the parameters by palmscale's names.

The header's metadata hold the model's fields and the vocabulary's description, and tensors of bytes
hold the vocabulary's files: the file is all that an import needs, and the parameters come back bit
for bit.
"""

import dataclasses
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from palmscale.data.vocabulary import Vocabulary, load_vocabulary
from palmscale.errors import UserError
from palmscale.exit_codes import printable
from palmscale.interop import tensors as ts
from palmscale.interop.expressible import check_is_palm
from palmscale.interop.layouts import ExportLayout, ImportLayout, Incoming, Options, Outgoing
from palmscale.interop.safetensors_file import (
    Open,
    read_metadata,
    read_safetensors,
    write_safetensors,
)
from palmscale.interop.tensors import Tensor, Tensors
from palmscale.model.palm import PaLM
from palmscale.storage.inside import inside

_LAYOUT, _MODEL, _VOCABULARY, _CONTEXT = "layout", "model", "vocabulary", "context_length"
_FILES = "vocabulary/"  # prefix of the tensors that are files


def write(
    outgoing: Outgoing, path: Path, *, open_file: Open = lambda path: open(path, "wb")
) -> None:
    """Writes the file; see `palmscale.interop.layouts.ExportLayout`."""
    model = check_is_palm(outgoing.model, "safetensors")
    cast = {name: ts.cast(one, np.dtype(outgoing.dtype)) for name, one in outgoing.params.items()}
    metadata = {
        _LAYOUT: "palmscale",
        _MODEL: json.dumps(_fields(model)),
        _VOCABULARY: json.dumps(outgoing.vocabulary.description()),
        _CONTEXT: str(outgoing.context_length),
    }
    files = _files(outgoing.vocabulary)
    write_safetensors(path, cast | files, metadata=metadata, open_file=open_file)


def read(path: Path, options: Options) -> list[Incoming]:
    """Returns what a file holds; see `palmscale.interop.layouts.ImportLayout`."""
    metadata = read_metadata(path)
    if metadata.get(_LAYOUT) != "palmscale":
        raise UserError(
            f"{path} is not a file that palmscale exported: its metadata do not say so; choose the"
            " layout of the program that wrote it."
        )
    try:
        fields, description = json.loads(metadata[_MODEL]), json.loads(metadata[_VOCABULARY])
        context_length = int(metadata[_CONTEXT])
    except (KeyError, ValueError) as error:
        raise UserError(
            f"the metadata of {path} are not whole ({error}); use an intact file."
        ) from None
    model = _model(path, fields)
    tensors = read_safetensors(path)
    files = {name: tensor for name, tensor in tensors.items() if name.startswith(_FILES)}
    params = {name: tensor for name, tensor in tensors.items() if name not in files}
    ts.check_names(params, parameter_shapes(model), "safetensors")
    return [
        Incoming(
            model=model,
            params={name: ts.cast(tensor, np.float32) for name, tensor in params.items()},
            vocabulary=_vocabulary(description, files),
            context_length=context_length,
        )
    ]


def parameter_shapes(model: PaLM) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each parameter of a model, by path."""
    N, D, H, K, F = model.depth, model.dim, model.heads, model.dim_head, model.ff_mult * model.dim
    shapes: dict[str, tuple[int, ...]] = {
        "embedding": (model.stored_tokens, D),
        "layers/norm": (N, D),
        "layers/query": (N, D, H, K),
        "layers/key": (N, D, K),
        "layers/value": (N, D, K),
        "layers/attention_out": (N, H, K, D),
        "layers/gate": (N, D, F),
        "layers/up": (N, D, F),
        "layers/down": (N, F, D),
    }
    return shapes | ({"final_norm": (D,)} if model.final_norm == "scaled" else {})


def _fields(model: PaLM) -> dict[str, Any]:
    return {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.name not in ("parent", "name")  # of every Linen module
    }


def _model(path: Path, fields: Any) -> PaLM:
    known = {field.name for field in dataclasses.fields(PaLM)}
    if not isinstance(fields, dict) or (unknown := fields.keys() - known):
        told = printable(", ".join(sorted(unknown))) if isinstance(fields, dict) else "no object"
        raise UserError(
            f"{path} gives PaLM fields that it does not have ({told}); use the version of palmscale"
            " that wrote it."
        )
    try:
        return PaLM(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
    except UserError:
        raise
    except Exception as error:  # whatever a field of another type raises
        raise UserError(
            f"{path} describes a PaLM that cannot be built ({error}); use an intact file."
        ) from None


def _files(vocabulary: Vocabulary) -> dict[str, Tensor]:
    with tempfile.TemporaryDirectory(prefix="palmscale-") as folder:
        vocabulary.save(Path(folder))
        paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {
            f"{_FILES}{path.relative_to(folder).as_posix()}": ts.of_array(
                np.frombuffer(path.read_bytes(), np.uint8)
            )
            for path in paths
        }


def _vocabulary(description: Mapping[str, Any], files: Tensors) -> Vocabulary:
    with tempfile.TemporaryDirectory(prefix="palmscale-") as folder:
        for name, content in files.items():
            path = inside(Path(folder), name.removeprefix(_FILES))
            assert isinstance(path, Path), "a temporary folder is on a disk"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.read().tobytes())
        return load_vocabulary(description, folder)


EXPORT = ExportLayout(dtypes=("float32", "bfloat16"), write=write)
IMPORT = ImportLayout(read=read)
