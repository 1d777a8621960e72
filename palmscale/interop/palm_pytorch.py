"""The state dict of PaLM-pytorch (lucidrains/PaLM-pytorch)."""

from palmscale.interop import fused_layout
from palmscale.interop.file_layout import export_to_file, import_from_file
from palmscale.interop.fused_layout import FusedLayout
from palmscale.interop.tensors import Tensors
from palmscale.model.palm import PaLM


def _names(depth: int) -> dict[str, str]:
    names = {"0.weight": "embedding"}
    for n in range(depth):
        block = f"{n + 1}.fn"
        names |= {
            f"{block}.norm.gamma": f"{n}/norm",
            f"{block}.norm.beta": f"{n}/beta",
            f"{block}.rotary_emb.inv_freq": f"{n}/inv_freq",
            f"{block}.fused_attn_ff_proj.weight": f"{n}/fused",
            f"{block}.attn_out.weight": f"{n}/attention_out",
            f"{block}.ff_out.1.weight": f"{n}/down",
        }
    end = {f"{depth + 1}.gamma": "final_norm", f"{depth + 1}.beta": "beta"}
    return {**names, **end, f"{depth + 2}.weight": "tied"}


_LAYOUT = FusedLayout(name="palm_pytorch", names=_names, transposed=True)


def exported(model: PaLM, params: Tensors) -> Tensors:
    """Returns the tensors of the layout; see `fused_layout.exported`."""
    return fused_layout.exported(_LAYOUT, model, params)


def imported(tensors: Tensors) -> tuple[PaLM, Tensors]:
    """Returns the module and its parameters; see `fused_layout.imported`."""
    return fused_layout.imported(_LAYOUT, tensors)


EXPORT = export_to_file(exported)
IMPORT = import_from_file(imported)
