"""Google's fused and stacked PaLM, as T5X saved it: read only.

Its kernels are fused for each head: `q_wi_fused` holds query [K] | gate [F / H] | up [F / H],
`kv_fused` key [K] | value [K], and `o_wo_fused` the rows of the attention's output [K] and of the
MLP's [F / H]. Layers lie along axis 0 or 1.

Source: google-research, scaling_transformer_inference_efficiency/checkpoint.py.
"""

import re
from pathlib import Path

import numpy as np

from palmscale.errors import UserError
from palmscale.interop import tensors as lazy
from palmscale.interop.layouts import ImportLayout, Incoming, Options
from palmscale.interop.recognize import check_layout, hint
from palmscale.interop.t5x_files import read_t5x
from palmscale.interop.tensors import Tensor, Tensors
from palmscale.model.palm import PaLM

_EMBEDDING, _FINAL_NORM = "token_embedder/embedding", "decoder_norm/scale"
_QUERY_MLP, _KEY_VALUE = "decoder/q_wi_fused/kernel", "decoder/kv_fused/kernel"
_OUT, _NORM = "decoder/o_wo_fused/kernel", "decoder/layer_norm/scale"
_STATE = re.compile(r"^(optimizer/)?(state|state_dict|version|flax_mutables)(/|$)")
_PREFIX = re.compile(r"^(optimizer/)?target/(decoder/)?")


def imported(tensors: Tensors) -> tuple[PaLM, Tensors]:
    """Returns the module, and its float32 parameters by path.

    Args:
        tensors: of a checkpoint by name: `target/decoder/decoder/q_wi_fused/kernel`; those of the
            optimizer are left out.

    Raises:
        UserError: these are not the tensors of the layout, or they are quantized.
    """
    found = {
        _PREFIX.sub("", name): each for name, each in tensors.items() if not _STATE.search(name)
    }
    if quantized := sorted(name for name in found if name.endswith(("/qkernel", "/qscale"))):
        raise UserError(
            f"the checkpoint is quantized to int8 (it has {quantized[0]}); import the one with"
            " kernels in bfloat16 or float32."
        )
    model, shapes, scan_axis = _module(found, tensors)
    check_layout(found, shapes, "t5x")
    if scan_axis:
        for name in (_QUERY_MLP, _KEY_VALUE, _OUT, _NORM):
            rest = range(2, len(found[name].shape))
            found[name] = lazy.transpose(found[name], 1, 0, *rest)
    return model, _parameters(model, found)


def _module(found: Tensors, tensors: Tensors) -> tuple[PaLM, dict[str, tuple[int, ...]], int]:
    """Returns the module that the shapes describe, the shape of each tensor, and the scan axis."""
    for name, dims in ((_EMBEDDING, 2), (_QUERY_MLP, 4), (_KEY_VALUE, 4)):
        if name not in found:
            raise UserError(
                f"these are not the tensors of t5x: {name} is missing.{hint(tensors, 't5x')}"
            )
        if len(found[name].shape) != dims:
            shape = list(found[name].shape)
            raise UserError(f"{name} of t5x is {shape} and must have {dims} dims.")
    V, D = found[_EMBEDDING].shape
    first, second, H, columns = found[_QUERY_MLP].shape
    scan_axis, N = (0, first) if second == D else (1, second)
    K = found[_KEY_VALUE].shape[-1] // 2
    F = (columns - K) // 2 * H
    if F < 1 or F % D:
        raise UserError(
            f"{_QUERY_MLP} of t5x is {list(found[_QUERY_MLP].shape)}, which with heads of {K} and"
            f" width {D} leaves an MLP of {F}; expected a multiple of {D}."
        )
    final_norm = "scaled" if _FINAL_NORM in found else "unscaled"
    sizes = dict(dim=D, num_tokens=V, depth=N, dim_head=K, heads=H, ff_mult=F // D)
    shapes = {
        _EMBEDDING: (V, D),
        _QUERY_MLP: (D, H, K + 2 * F // H),
        _KEY_VALUE: (D, 1, 2 * K),
        _OUT: (H, K + F // H, D),
        _NORM: (D,),
    }
    for name in (_QUERY_MLP, _KEY_VALUE, _OUT, _NORM):
        shape = [*shapes[name]]
        shape.insert(scan_axis, N)
        shapes[name] = tuple(shape)
    if final_norm == "scaled":
        shapes[_FINAL_NORM] = (D,)
    return PaLM(**sizes, final_norm=final_norm), shapes, scan_axis


def _parameters(model: PaLM, found: Tensors) -> Tensors:
    K, F_per_head = model.dim_head, model.ff_mult * model.dim // model.heads
    # [N, D, H, K + 2 F / H], [N, D, 1, 2 K], [N, H, K + F / H, D]
    query_mlp, key_value, out = found[_QUERY_MLP], found[_KEY_VALUE], found[_OUT]
    key_value = lazy.merge_dims(key_value, 2)

    def mlp(half: int) -> Tensor:
        start = K + half * F_per_head
        return lazy.merge_dims(lazy.cut(query_mlp, 3, start, start + F_per_head), 2)

    params = {
        "embedding": found[_EMBEDDING],
        "layers/norm": found[_NORM],
        "layers/query": lazy.cut(query_mlp, 3, 0, K),
        "layers/key": lazy.cut(key_value, 2, 0, K),
        "layers/value": lazy.cut(key_value, 2, K, 2 * K),
        "layers/gate": mlp(0),
        "layers/up": mlp(1),
        "layers/attention_out": lazy.cut(out, 2, 0, K),
        "layers/down": lazy.merge_dims(lazy.cut(out, 2, K, K + F_per_head), 1),
    }
    if model.final_norm == "scaled":
        params["final_norm"] = found[_FINAL_NORM]
    return {path: lazy.cast(tensor, np.float32) for path, tensor in params.items()}


def read(path: Path, options: Options) -> list[Incoming]:
    """Returns what a checkpoint holds; see `palmscale.interop.layouts.ImportLayout`."""
    model, params = imported(read_t5x(path))
    return [Incoming(model=model, params=params)]


IMPORT = ImportLayout(read=read)
