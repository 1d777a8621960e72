"""GGUF, the file that llama.cpp runs: PaLM as its architecture `cohere2moe`, every layer dense.

The tensors are those of the Hugging Face export under llama.cpp's names. A GGUF file holds fields
(key: value), the vocabulary among them, then the name, shape, type and place of each tensor, then
the tensors' bytes.
"""

import functools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from flax import linen as nn

from palmscale.errors import UserError
from palmscale.interop import engines, gguf_vocabulary, hf
from palmscale.interop.check import compare
from palmscale.interop.expressible import check_is_cohere, refuse
from palmscale.interop.layouts import ExportLayout, Outgoing
from palmscale.interop.reference import Architecture
from palmscale.storage.tensor import Part, Tensor, Tensors

if TYPE_CHECKING:
    import gguf

ARCHITECTURE = "cohere2moe"
# What llama.cpp calls each type of weights, and a whole file of it. A file of Q4_0 holds the token
# table, which is also the output's, as Q8_0: at 4 bits it would make up most of the error.
_TYPES = {
    "float32": ("F32", "ALL_F32"),
    "bfloat16": ("BF16", "MOSTLY_BF16"),
    "q8_0": ("Q8_0", "MOSTLY_Q8_0"),
    "q4_0": ("Q4_0", "MOSTLY_Q4_0"),
}
_TABLE = "token_embd.weight"
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.weight")
_BLOCK = re.compile(r"blk\.(\d+)\.(.+)\.weight")


def exported(model: nn.Module, params: Tensors) -> Tensors:
    """Returns the tensors of a GGUF file by llama.cpp's names, in file order.

    Raises:
        UserError: llama.cpp cannot express the model.
    """
    if not check_is_cohere(
        model, "gguf"
    ).norm_eps:  # llama.cpp takes RMSNorm without an epsilon for LayerNorm
        raise refuse("gguf", "PaLM.norm_eps=0", "its norms need an epsilon")
    return {_gguf_name(name): tensor for name, tensor in hf.exported(model, params).items()}


def write(outgoing: Outgoing, path: Path) -> None:
    """Writes a GGUF file, block by block.

    Raises:
        UserError: llama.cpp cannot express the model or its vocabulary, the rows of a tensor cannot
            be quantized, or the package `gguf` is not installed.
    """
    gguf = package()
    tensors = exported(outgoing.model, outgoing.params)
    kinds = {name: _kind(name, tensor, outgoing.dtype) for name, tensor in tensors.items()}
    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    _add_model(writer, outgoing)
    gguf_vocabulary.add(writer, outgoing.vocabulary, outgoing.model.num_tokens)
    for name, tensor in tensors.items():
        writer.add_tensor_info(
            name, tensor.shape, np.dtype(np.float32), _bytes(tensor, kinds[name]), kinds[name]
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with open(path, "ab") as file:
        written = file.tell()
        for name, tensor in tensors.items():
            written += file.write(bytes(-written % writer.data_alignment))
            for _, block in tensor.blocks():
                written += file.write(_rounded(block, kinds[name]).data)


def read(path: Path) -> tuple[dict[str, Any], Tensors]:
    """Returns (fields by key, tensors by name): float32, dequantized when they are read.

    Raises:
        UserError: the file is not a whole GGUF file.
    """
    gguf = package()
    try:
        reader = gguf.GGUFReader(path)
        fields = {key: field.contents() for key, field in reader.fields.items()}
        return fields, {tensor.name: _dequantized(tensor) for tensor in reader.tensors}
    except (ValueError, IndexError, KeyError) as error:
        raise UserError(f"{path} is not a whole GGUF file ({error}); export it again.") from None


def check(outgoing: Outgoing, path: Path) -> str:
    """Compares the logits of a file that `write` wrote with the model's; see `compare`."""
    fields, tensors = read(path)
    engine = functools.partial(
        engines.run_llama_cpp,
        path,
        num_tokens=outgoing.model.num_tokens,
        end_id=outgoing.vocabulary.eod_id,
    )
    return compare(
        outgoing,
        _architecture(fields),
        {_hf_name(name): tensor for name, tensor in tensors.items()},
        hf.exported(outgoing.model, outgoing.params),
        engine=engine,
        engine_name="llama.cpp",
    )


def package() -> Any:
    """Returns the module `gguf`; UserError: it is not installed."""
    try:
        import gguf
    except ImportError:
        raise UserError(
            "GGUF files need the package gguf, which is not installed; run"
            ' pip install "palmscale[interop]".'
        ) from None
    return gguf


def _gguf_name(name: str) -> str:
    if match := _LAYER.fullmatch(name):
        return f"blk.{match[1]}.{_NAMES[match[2]]}.weight"
    return f"{_NAMES[name.removesuffix('.weight')]}.weight"


def _hf_name(name: str) -> str:
    hf_names = {there: here for here, there in _NAMES.items()}
    if match := _BLOCK.fullmatch(name):
        return f"model.layers.{match[1]}.{hf_names[match[2]]}.weight"
    return f"{hf_names[name.removesuffix('.weight')]}.weight"


def _architecture(fields: Mapping[str, Any]) -> Architecture:
    """Returns what llama.cpp makes of the fields."""
    rms_eps = fields.get(f"{ARCHITECTURE}.attention.layer_norm_rms_epsilon", 0.0)
    return Architecture(
        layers=fields[f"{ARCHITECTURE}.block_count"],
        heads=fields[f"{ARCHITECTURE}.attention.head_count"],
        head_dim=fields[f"{ARCHITECTURE}.attention.key_length"],
        rms=rms_eps != 0,
        norm_eps=rms_eps or fields[f"{ARCHITECTURE}.attention.layer_norm_epsilon"],
        rope_theta=fields[f"{ARCHITECTURE}.rope.freq_base"],
        logit_scale=fields[f"{ARCHITECTURE}.logit_scale"],
    )


def _add_model(writer: "gguf.GGUFWriter", outgoing: Outgoing) -> None:
    gguf, model = package(), check_is_cohere(outgoing.model, "gguf")
    for key, value in _about(outgoing.origin).items():
        writer.add_string(f"general.{key}", value)
    writer.add_file_type(gguf.LlamaFileType[_TYPES[outgoing.dtype][1]])
    if outgoing.dtype in ("q8_0", "q4_0"):
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    mlp = model.ff_mult * model.dim
    writer.add_vocab_size(model.num_tokens)
    writer.add_context_length(outgoing.context_length)
    writer.add_embedding_length(model.dim)
    writer.add_block_count(model.depth)
    writer.add_feed_forward_length(mlp)
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(1)
    writer.add_key_length(model.dim_head)
    writer.add_value_length(model.dim_head)
    add_eps = writer.add_layer_norm_rms_eps if model.norm == "rms" else writer.add_layer_norm_eps
    add_eps(model.norm_eps)
    writer.add_rope_dimension_count(model.dim_head)
    writer.add_rope_freq_base(10_000.0)
    scale = model.dim**-0.5 if model.logit_scale is None else model.logit_scale
    writer.add_logit_scale(scale)
    # Every layer is dense, but llama.cpp wants experts to be counted; and a layer must slide, with
    # a window that never cuts.
    writer.add_leading_dense_block_count(model.depth)
    writer.add_expert_count(1)
    writer.add_expert_used_count(1)
    writer.add_expert_feed_forward_length(mlp)
    writer.add_sliding_window(outgoing.context_length)
    writer.add_sliding_window_pattern([True] * model.depth)


def _about(origin: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(origin[key]) for key in ("name", "license") if origin.get(key)}


def _kind(name: str, tensor: Tensor, dtype: str) -> "gguf.GGMLQuantizationType":
    kinds = package().GGMLQuantizationType
    if len(tensor.shape) == 1:  # norm scales, which llama.cpp multiplies in float32
        return kinds.F32
    kind = kinds["Q8_0" if dtype == "q4_0" and name == _TABLE else _TYPES[dtype][0]]
    block, _ = package().GGML_QUANT_SIZES[kind]
    if tensor.shape[-1] % block:
        raise UserError(
            f"{name} has rows of {tensor.shape[-1]} values, and {dtype} quantizes blocks of"
            f" {block}; export to bfloat16 or float32."
        )
    return kind


def _bytes(tensor: Tensor, kind: "gguf.GGMLQuantizationType") -> int:
    block, block_bytes = package().GGML_QUANT_SIZES[kind]
    return math.prod(tensor.shape) // block * block_bytes


def _rounded(block: np.ndarray, kind: "gguf.GGMLQuantizationType") -> np.ndarray:
    """Returns the bytes of float32 values as another type."""
    block = np.ascontiguousarray(block, np.float32)
    if kind.name == "BF16":  # the package takes ten times as long
        return block.astype(ml_dtypes.bfloat16).view(np.uint8)
    return package().quants.quantize(block, kind).view(np.uint8)


def _dequantized(stored: "gguf.ReaderTensor") -> Tensor:
    shape = tuple(reversed(stored.shape.tolist()))

    def read_part(part: Part) -> np.ndarray:
        rows = np.ascontiguousarray(stored.data[part[0]])
        values = package().quants.dequantize(rows, stored.tensor_type)
        return values[(slice(None), *part[1:])]

    return Tensor(shape, np.dtype(np.float32), read_part)


EXPORT = ExportLayout(dtypes=tuple(_TYPES), write=write, check=check)
