"""The logits of a PaLM whose parameters are read one layer at a time."""

import jax
import numpy as np

from palmscale.model.palm import PaLM
from palmscale.storage.tensor import Tensors

_LAYERS = "layers/"


def layer_bytes(params: Tensors) -> int:
    """Returns the bytes of the parameters of one layer."""
    stacked = [tensor for name, tensor in params.items() if name.startswith(_LAYERS)]
    return sum(tensor.bytes // tensor.shape[0] for tensor in stacked)


def logits(model: PaLM, params: Tensors, tokens_L: np.ndarray) -> np.ndarray:
    """Returns the model's float32 logits [L, num_tokens], computed by the model itself in float32.

    Args:
        model: the module.
        params: its parameters by path; see `palmscale.interop.layouts.Outgoing`.
        tokens_L: ids of one text.
    """
    length = len(tokens_L)
    # One layer as a model of its own, whose token table is the layer's input.
    one = model.clone(
        depth=1, num_tokens=length, padded_tokens=None, final_norm="none", dtype="float32",
        dropout=0.0, remat="none", query_chunk=length,
    )  # fmt: skip
    last = one.clone(final_norm=model.final_norm)

    @jax.jit
    def step(x_LD, layer):
        variables = {"params": {"embedding": x_LD, "layers": layer}}
        return one.apply(variables, np.arange(length)[None], method="hidden")[0]

    @jax.jit
    def unembed(x_1LD, layer, table_VD):
        part = one.clone(num_tokens=len(table_VD))
        variables = {"params": {"embedding": table_VD, "layers": layer}}
        return part.apply(variables, x_1LD, method="unembed")[0]

    with jax.default_matmul_precision("highest"):
        table_VD = params["embedding"]
        x_LD = np.concatenate([table_VD.read(slice(t, t + 1)) for t in tokens_L.tolist()])
        for n in range(model.depth):
            layer = {
                name.removeprefix(_LAYERS): tensor.read(slice(n, n + 1))
                for name, tensor in params.items()
                if name.startswith(_LAYERS)
            }
            x_LD = step(x_LD, layer)
        variables = {"embedding": x_LD, "layers": layer}
        if model.final_norm == "scaled":
            variables["final_norm"] = params["final_norm"].read()
        x_1LD = last.apply({"params": variables}, x_LD[None], method="normalize_last")
        parts = [unembed(x_1LD, layer, rows) for _, rows in table_VD.blocks()]
        return np.concatenate(parts, axis=-1)[:, : model.num_tokens]
