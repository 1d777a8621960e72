"""The parameter tree of PaLM-flax (conceptofmind/PaLM-flax), with names joined by `/`."""

from palmscale.interop import fused_layout
from palmscale.interop.file_layout import export_to_file, import_from_file
from palmscale.interop.fused_layout import FusedLayout
from palmscale.interop.tensors import Tensors
from palmscale.model.palm import PaLM


def _names(depth: int) -> dict[str, str]:
    names = {"params/Embed_0/embedding": "embedding"}
    for n in range(depth):
        inner = "params/ParallelTransformer_0"
        block = f"{inner}/ParallelTransformerBlock_{n}"
        names |= {
            f"{inner}/PreNorm_{n}/LayerNorm_0/scale": f"{n}/norm",
            f"{block}/Dense_0/kernel": f"{n}/fused",
            f"{block}/Dense_1/kernel": f"{n}/attention_out",
            f"{block}/Dense_2/kernel": f"{n}/down",
        }
    return {**names, "params/LayerNorm_0/scale": "final_norm"}


_LAYOUT = FusedLayout(name="palm_flax", names=_names)


def exported(model: PaLM, params: Tensors) -> Tensors:
    """Returns the tensors of the layout; see `fused_layout.exported`."""
    return fused_layout.exported(_LAYOUT, model, params)


def imported(tensors: Tensors) -> tuple[PaLM, Tensors]:
    """Returns the module and its parameters; names may lack `params/`, as those of a bare tree."""
    named = {f"params/{name.removeprefix('params/')}": each for name, each in tensors.items()}
    return fused_layout.imported(_LAYOUT, named)


EXPORT = export_to_file(exported)
IMPORT = import_from_file(imported)
