"""An adapter (LoRA) as one safetensors file, beside any copy of its base.

The header's metadata hold rank, alpha and targets, and which parameters it was trained on; the
tensors are the adapters alone, float32 by palmscale's names.
"""

import json
from pathlib import Path
from typing import Any

from palmscale.errors import UserError
from palmscale.interop.layouts import ExportLayout, Outgoing
from palmscale.interop.safetensors_file import read_metadata, read_safetensors, write_safetensors
from palmscale.interop.tensors import Tensors

_LAYOUT, _NAME = "layout", "palmscale adapter"
_FIELDS = ("lora", "base", "step")


def write(outgoing: Outgoing, path: Path) -> None:
    """Writes the file; see `palmscale.interop.layouts.ExportLayout`."""
    facts = {name: json.dumps(outgoing.origin[name]) for name in _FIELDS}
    write_safetensors(path, outgoing.params, metadata={_LAYOUT: _NAME, **facts})


def read(path: Path) -> tuple[dict[str, Any], Tensors]:
    """Returns what a file says of its adapter (`lora`, `base`, `step`), and its tensors.

    Raises:
        UserError: it holds no adapter.
    """
    metadata = read_metadata(path)
    if metadata.get(_LAYOUT) != _NAME:
        raise UserError(
            f"{path} is not an adapter that palmscale exported: its metadata do not say so; export"
            " it with the layout adapter."
        )
    try:
        facts = {name: json.loads(metadata[name]) for name in _FIELDS}
    except (KeyError, ValueError) as error:
        raise UserError(
            f"the metadata of {path} are not whole ({error}); use an intact file."
        ) from None
    return facts, read_safetensors(path)


EXPORT = ExportLayout(dtypes=("float32",), write=write, holds_adapters=True)
