"""Which layout tensors look like, by their names."""

import re
from collections.abc import Iterable, Mapping

from palmscale.errors import UserError
from palmscale.interop.tensors import Tensors, check_names

_SIGNS = {
    "palm_flax": re.compile(r"ParallelTransformerBlock_\d+/Dense_0/kernel$"),
    "palm_pytorch": re.compile(r"(^|/)\d+\.fn\.fused_attn_ff_proj\.weight$"),
    "palm_rlhf": re.compile(r"(^|/)layers\.\d+\.fn\.fused_attn_ff_proj\.weight$"),
    "palm_jax": re.compile(r"(^|/)layers\.\d+\.attn_wo$"),
    "t5x": re.compile(r"decoder/q_wi_fused/"),
    "hf": re.compile(r"(^|/)model\.layers\.\d+\.self_attn\.q_proj\.weight$"),
    "safetensors": re.compile(r"(^|/)layers/attention_out$"),
}


def looks_like(names: Iterable[str]) -> str | None:
    """Returns the name of the layout whose tensors have such names; None: it is not known."""
    names = list(names)
    for layout, sign in _SIGNS.items():
        if any(map(sign.search, names)):
            return layout
    return None


def check_layout(tensors: Tensors, wanted: Mapping[str, tuple[int, ...]], layout: str) -> None:
    """Checks that these are the tensors of a layout.

    Args:
        tensors: that were found.
        wanted: the shape of each tensor of the layout, by name.
        layout: its name.

    Raises:
        UserError: they are not; lists those that are missing or unknown with shapes, and says
            which layout they look like.
    """
    try:
        check_names(tensors, wanted, layout)
    except UserError as error:
        raise UserError(f"{error}{hint(tensors, layout)}") from None


def hint(names: Iterable[str], layout: str) -> str:
    """Returns a sentence that says which layout these names look like, or nothing."""
    found = looks_like(names)
    if found in (None, layout):
        return ""
    return f" They look like the layout {found}; import them from {found}."
