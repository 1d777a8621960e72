"""The module of PaLM-jax (lucidrains), whose rotary positions rotate neighboring columns.

An Equinox file has no names: its tensors are numbered in the order of the module's fields.
"""

from palmscale.interop import fused_layout
from palmscale.interop.file_layout import export_to_file, import_from_file
from palmscale.interop.fused_layout import FusedLayout, interleaved
from palmscale.interop.tensors import Tensors
from palmscale.model.palm import PaLM

_PER_LAYER = {"norm.gamma": "norm", "wi": "fused", "attn_wo": "attention_out", "ff_wo": "down"}


def _names(depth: int) -> dict[str, str]:
    names = {"embedding": "embedding", "norm.gamma": "final_norm"}
    for n in range(depth):
        names |= {f"layers.{n}.{name}": f"{n}/{part}" for name, part in _PER_LAYER.items()}
    return names


_LAYOUT = FusedLayout(name="palm_jax", names=_names, head_order=interleaved)


def exported(model: PaLM, params: Tensors) -> Tensors:
    """Returns the tensors of the layout; see `fused_layout.exported`."""
    return fused_layout.exported(_LAYOUT, model, params)


def imported(tensors: Tensors) -> tuple[PaLM, Tensors]:
    """Returns the module and its parameters; names may be the numbers of an Equinox file."""
    if list(tensors) == [str(n) for n in range(len(tensors))]:
        depth = max(1, -(-(len(tensors) - 2) // len(_PER_LAYER)))
        tensors = dict(zip(_names(depth), tensors.values()))
    return fused_layout.imported(_LAYOUT, tensors)


EXPORT = export_to_file(exported)
IMPORT = import_from_file(imported)
