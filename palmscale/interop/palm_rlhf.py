"""The state dict of PaLM-rlhf-pytorch (lucidrains), as of conceptofmind's PaLM 150m to 2b.

From 0.2.4 (2025-01-06) a norm scale s acts as s + 1; the files of earlier versions, conceptofmind's
among them, hold what is multiplied. And until 2023-04-05 logits were computed without the final
norm. Neither shows in a file.
"""

import itertools
import re
from pathlib import Path

from palmscale.errors import UserError
from palmscale.interop import fused_layout
from palmscale.interop.file_layout import export_to_file
from palmscale.interop.fused_layout import FusedLayout
from palmscale.interop.layouts import ImportLayout, Incoming, Options
from palmscale.interop.tensor_files import read_tensors
from palmscale.interop.tensors import Tensors
from palmscale.model.palm import PaLM

_QK_NORM = re.compile(r"\.(q_scale|k_scale)$")
_OLD_DOWN = re.compile(r"\.ff_out\.1\.weight$")  # before 2023-01-10


def _names(depth: int) -> dict[str, str]:
    names = {"token_emb.weight": "embedding"}
    for n in range(depth):
        block = f"layers.{n}.fn"
        names |= {
            f"{block}.norm.gamma": f"{n}/norm",
            f"{block}.norm.beta": f"{n}/beta",
            f"{block}.rotary_emb.inv_freq": f"{n}/inv_freq",
            f"{block}.rotary_emb.scale": f"{n}/scale",
            f"{block}.fused_attn_ff_proj.weight": f"{n}/fused",
            f"{block}.attn_out.weight": f"{n}/attention_out",
            f"{block}.ff_out.2.weight": f"{n}/down",
        }
    end = {"norm.gamma": "final_norm", "norm.beta": "beta", "to_logits.weight": "tied"}
    return {**names, **end}


_LAYOUT = FusedLayout(name="palm_rlhf", names=_names, transposed=True)


def exported(model: PaLM, params: Tensors) -> Tensors:
    """Returns the tensors of the layout; see `fused_layout.exported`.

    Norm scales are zero-centered if the model's are: for versions from 0.2.4, and else before.
    """
    offset = 1.0 if model.norm_scale_offset == 1 else 0.0
    return fused_layout.exported(_LAYOUT, model, params, norm_offset=offset)


def imported(
    tensors: Tensors, *, norm_scale_offset: float, final_norm: str
) -> tuple[PaLM, Tensors]:
    """Returns the module and its parameters; see `fused_layout.imported`.

    Args:
        tensors: by name; files from before xPos, which lack its scales, have RoPE.
        norm_scale_offset: 0 for files of versions before 0.2.4, 1 for later ones.
        final_norm: `scaled`, or `none` for models trained before 2023-04-05.
    """
    if found := sorted(filter(_QK_NORM.search, tensors)):
        raise UserError(
            f"the file has {found[0]}, so its model normalizes queries and keys (qk_rmsnorm=True),"
            " which palmscale's PaLM cannot express."
        )
    renamed = {_OLD_DOWN.sub(".ff_out.2.weight", name): each for name, each in tensors.items()}
    return fused_layout.imported(
        _LAYOUT, renamed, norm_scale_offset=norm_scale_offset, final_norm=final_norm
    )


def read(path: Path, options: Options) -> list[Incoming]:
    """Returns the models that a file may hold; see `palmscale.interop.layouts.ImportLayout`."""
    tensors = read_tensors(path)
    offset, final_norm = options.norm_scale_offset, options.final_norm
    offsets = (0.0, 1.0) if offset is None else (offset,)
    final_norms = ("scaled", "none") if final_norm is None else (final_norm,)
    found = []
    for offset, final_norm in itertools.product(offsets, final_norms):
        model, params = imported(tensors, norm_scale_offset=offset, final_norm=final_norm)
        choice = Options(norm_scale_offset=offset, final_norm=final_norm)
        found.append(Incoming(model=model, params=params, choice=choice))
    return found


EXPORT = export_to_file(exported)
IMPORT = ImportLayout(options=("norm_scale_offset", "final_norm"), read=read)
