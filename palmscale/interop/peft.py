"""PEFT's layout of an adapter (LoRA), for a base that was exported in Hugging Face's layout.

Its matrices are those there, [out, in], and so are the adapter's: `lora_A` is [r, in] and `lora_B`
[out, r]. The rows of `lora_B` of query and key are permuted as those of their kernels.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from flax import linen as nn

from palmscale.interop import tensors as ts
from palmscale.interop.expressible import check_is_cohere, refuse
from palmscale.interop.hf import KERNELS, LAYER, ROTATED, as_matrix, interleaved
from palmscale.interop.layouts import ExportLayout, Outgoing
from palmscale.interop.safetensors_file import write_safetensors
from palmscale.interop.tensors import Tensor, Tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
# PEFT 0.21 with transformers 5 renames these targets in the config of a `cohere2_moe` (observed).
_EXPERTS = ("gate", "up", "down")


def write(outgoing: Outgoing, path: Path) -> None:
    """Writes the folder; see `palmscale.interop.layouts.ExportLayout`."""
    tensors = exported(outgoing.model, outgoing.params)
    lora = outgoing.origin["lora"]
    modules = [KERNELS[name][0].split(".")[1] for name in lora["targets"]]
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": Path(outgoing.origin["base"]["workdir"]).name,
        "r": lora["rank"],
        "lora_alpha": lora["alpha"],
        "lora_dropout": 0.0,
        "target_modules": modules,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    path.mkdir(parents=True)
    (path / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    cast = {name: ts.cast(tensor, np.dtype(outgoing.dtype)) for name, tensor in tensors.items()}
    write_safetensors(path / WEIGHTS, cast, metadata={"format": "pt"})


def exported(model: nn.Module, adapters: Tensors) -> Tensors:
    """Returns the tensors there, by name, in the order of the layers.

    Args:
        model: the module.
        adapters: by `layers/query/down` [N, D, r] and `layers/query/up` [N, r, H, K], ...

    Raises:
        UserError: the layout cannot express the model.
    """
    palm = check_is_cohere(model, "peft")
    targets = sorted({path.split("/")[1] for path in adapters})
    if experts := [name for name in targets if name in _EXPERTS]:
        raise refuse(
            "peft",
            f"adapters of {', '.join(experts)}",
            "PEFT takes them for those of a mixture of experts and leaves them out",
        )
    return dict(_exported(palm.depth, palm.dim_head, targets, adapters))


def _exported(
    depth: int, dim_head: int, targets: list[str], adapters: Tensors
) -> Iterator[tuple[str, Tensor]]:
    for n in range(depth):
        for name in targets:
            there, inputs = KERNELS[name]
            prefix = f"{_PREFIX}{LAYER.format(n=n)}{there.removesuffix('.weight')}"
            down = ts.layer(adapters[f"layers/{name}/down"], n)
            up = ts.layer(adapters[f"layers/{name}/up"], n)
            if name in ROTATED:
                up = ts.take(up, interleaved(dim_head), len(up.shape) - 1)
            yield f"{prefix}.lora_A.weight", as_matrix(down, inputs)
            yield f"{prefix}.lora_B.weight", as_matrix(up, 1)


EXPORT = ExportLayout(dtypes=("float32", "bfloat16"), write=write, holds_adapters=True)
