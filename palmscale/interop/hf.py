"""Hugging Face's layout: a folder that transformers, vLLM and their kin load.

PaLM is, exactly, transformers' `Cohere2MoeForCausalLM` with every layer dense: one norm, parallel
attention and SwiGLU, no biases, a tied table, a factor on the logits, a head size of its own, and
RMSNorm where `rms_norm_eps` is set. Kernels are transposed there, and rotary pairs are neighbors
rather than halves apart.
"""

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import linen as nn

from palmscale.errors import UserError
from palmscale.interop import engines, hf_config, reference
from palmscale.interop import tensors as ts
from palmscale.interop.carried_vocabulary import read_vocabulary, write_vocabulary
from palmscale.interop.check import compare
from palmscale.interop.expressible import check_is_cohere
from palmscale.interop.hf_tokenizer import write_tokenizer
from palmscale.interop.layouts import ExportLayout, ImportLayout, Incoming, Options, Outgoing
from palmscale.interop.model_card import model_card
from palmscale.interop.safetensors_file import INDEX, SINGLE, Open, read_safetensors, write_shards
from palmscale.interop.tensors import Tensor, Tensors
from palmscale.model.palm import PaLM

CONFIG, GENERATION_CONFIG, CARD = "config.json", "generation_config.json", "README.md"
LAYER = "model.layers.{n}."
# palmscale's name of a layer's kernel: name there, number of its input dims.
KERNELS = {
    "query": ("self_attn.q_proj.weight", 1),
    "key": ("self_attn.k_proj.weight", 1),
    "value": ("self_attn.v_proj.weight", 1),
    "attention_out": ("self_attn.o_proj.weight", 2),
    "gate": ("mlp.gate_proj.weight", 1),
    "up": ("mlp.up_proj.weight", 1),
    "down": ("mlp.down_proj.weight", 1),
}
ROTATED = ("query", "key")


def write(
    outgoing: Outgoing, path: Path, *, open_file: Open = lambda path: open(path, "wb")
) -> None:
    """Writes the folder: weights, config, tokenizer, generation config and model card.

    Args:
        outgoing: what is exported.
        path: of the folder, which does not exist.
        open_file: opens the files of weights.

    Raises:
        UserError: the layout cannot express the model or its vocabulary.
    """
    vocabulary = outgoing.vocabulary
    config = hf_config.of_model(outgoing)
    tensors = exported(outgoing.model, outgoing.params)
    path.mkdir(parents=True)
    write_tokenizer(vocabulary, path, context_length=outgoing.context_length)
    write_vocabulary(vocabulary, path)
    _write_json(path / CONFIG, config)
    ids = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write_json(path / GENERATION_CONFIG, {"_from_model_config": True, **ids})
    (path / CARD).write_text(model_card(outgoing), encoding="utf-8")
    # transformers asks for this metadata.
    cast = {name: ts.cast(tensor, np.dtype(outgoing.dtype)) for name, tensor in tensors.items()}
    write_shards(path, cast, metadata={"format": "pt"}, open_file=open_file)


def exported(model: nn.Module, params: Tensors) -> Tensors:
    """Returns the tensors there, by name, in the order of the layers.

    Raises:
        UserError: the layout cannot express the model.
    """
    palm = check_is_cohere(model, "hf")
    return dict(_exported(palm, params))


def _exported(model: PaLM, params: Tensors) -> Iterator[tuple[str, Tensor]]:
    yield "model.embed_tokens.weight", ts.cut(params["embedding"], 0, 0, model.num_tokens)
    for n in range(model.depth):
        prefix = LAYER.format(n=n)
        yield f"{prefix}input_layernorm.weight", _plain(model, ts.layer(params["layers/norm"], n))
        for name, (there, inputs) in KERNELS.items():
            kernel = ts.layer(params[f"layers/{name}"], n)
            if name in ROTATED:
                kernel = ts.take(kernel, interleaved(model.dim_head), len(kernel.shape) - 1)
            yield f"{prefix}{there}", as_matrix(kernel, inputs)
    if model.final_norm == "scaled":
        yield "model.norm.weight", _plain(model, params["final_norm"])
    else:
        yield "model.norm.weight", ts.of_array(np.ones(model.dim, np.float32))


def _plain(model: PaLM, scale: Tensor) -> Tensor:
    """Returns the factor that a stored norm scale acts as."""
    return ts.map_values(scale, lambda values: values + np.float32(model.norm_scale_offset))


def as_matrix(kernel: Tensor, inputs: int) -> Tensor:
    """Returns a kernel as [out, in]."""
    while len(kernel.shape) > 2:
        kernel = ts.merge_dims(kernel, 0 if inputs == 2 else 1)
    return ts.transpose(kernel)


def interleaved(dim_head: int) -> np.ndarray:
    """Returns the old index of each new one: new 2j is old j, new 2j + 1 is old j + K/2."""
    return np.arange(dim_head).reshape(2, dim_head // 2).T.reshape(-1)


def check(outgoing: Outgoing, path: Path) -> str:
    """Compares the logits of a folder that `write` wrote with the model's; see `compare`."""
    return compare(
        outgoing,
        reference.of_config(hf_config.read(path / CONFIG)),
        read_safetensors(path),
        exported(outgoing.model, outgoing.params),
        engine=functools.partial(engines.run_transformers, path),
        engine_name="transformers",
    )


def imported(config: Mapping[str, Any], tensors: Tensors) -> tuple[PaLM, Tensors]:
    """Returns the module and its parameters; undoes `exported`.

    Raises:
        UserError: the config is of another model, or the tensors are not of this config.
    """
    model = hf_config.model_of(config)
    D, H, K, F = model.dim, model.heads, model.dim_head, model.ff_mult * model.dim
    shapes = {"query": (H * K, D), "key": (K, D), "value": (K, D), "attention_out": (D, H * K),
              "gate": (F, D), "up": (F, D), "down": (D, F)}  # fmt: skip
    wanted: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (model.num_tokens, D),
        "model.norm.weight": (D,),
    }
    for n in range(model.depth):
        wanted[f"{LAYER.format(n=n)}input_layernorm.weight"] = (D,)
        for name, (there, _) in KERNELS.items():
            wanted[f"{LAYER.format(n=n)}{there}"] = shapes[name]
    ts.check_names(tensors, wanted, "hf")
    params = {
        "embedding": tensors["model.embed_tokens.weight"],
        "final_norm": tensors["model.norm.weight"],
        "layers/norm": _stacked(tensors, model, "input_layernorm.weight"),
    }
    for name, (there, _) in KERNELS.items():
        kernel = ts.transpose(_stacked(tensors, model, there), 0, 2, 1)
        if name == "query":
            kernel = ts.split_dim(kernel, 2, K)
        elif name == "attention_out":
            kernel = ts.split_dim(kernel, 1, K)
        if name in ROTATED:
            back = np.argsort(interleaved(K))
            kernel = ts.take(kernel, back, len(kernel.shape) - 1)
        params[f"layers/{name}"] = kernel
    return model, {name: ts.cast(tensor, np.float32) for name, tensor in params.items()}


def _stacked(tensors: Tensors, model: PaLM, name: str) -> Tensor:
    return ts.stack([tensors[f"{LAYER.format(n=n)}{name}"] for n in range(model.depth)])


def read(path: Path, options: Options) -> list[Incoming]:
    """Returns what a folder, also named by a file in it, holds; see `ImportLayout`."""
    path = path if path.is_dir() else path.parent
    if not (path / CONFIG).is_file():
        raise UserError(
            f"{path} is not a folder of Hugging Face's layout ({CONFIG} is missing); name one with"
            f" {CONFIG} and {SINGLE} or {INDEX}."
        )
    config = hf_config.read(path / CONFIG)
    model, params = imported(config, read_safetensors(path))
    return [
        Incoming(
            model=model,
            params=params,
            vocabulary=read_vocabulary(path),
            context_length=config.get("max_position_embeddings"),
        )
    ]


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


EXPORT = ExportLayout(dtypes=("float32", "bfloat16"), write=write, check=check)
IMPORT = ImportLayout(read=read)
