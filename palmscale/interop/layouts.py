"""The layouts that weights are exchanged in, and what each must offer.

A layout is a module of this package, imported when it is used: it may need packages that not
everyone has.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flax import linen as nn

from palmscale.data.vocabulary import Vocabulary
from palmscale.errors import UserError
from palmscale.interop.tensors import Tensors

# The module that defines `EXPORT` or `IMPORT` for each layout.
EXPORTS: dict[str, str] = {
    "hf": "palmscale.interop.hf",
    "gguf": "palmscale.interop.gguf_file",
    "safetensors": "palmscale.interop.palmscale_safetensors",
    "palm_flax": "palmscale.interop.palm_flax",
    "palm_pytorch": "palmscale.interop.palm_pytorch",
    "palm_rlhf": "palmscale.interop.palm_rlhf",
    "palm_jax": "palmscale.interop.palm_jax",
    "stablehlo": "palmscale.interop.stablehlo",
    "adapter": "palmscale.interop.adapter_file",
    "peft": "palmscale.interop.peft",
}
IMPORTS: dict[str, str] = {
    "hf": "palmscale.interop.hf",
    "safetensors": "palmscale.interop.palmscale_safetensors",
    "palm_flax": "palmscale.interop.palm_flax",
    "palm_pytorch": "palmscale.interop.palm_pytorch",
    "palm_rlhf": "palmscale.interop.palm_rlhf",
    "palm_jax": "palmscale.interop.palm_jax",
    "t5x": "palmscale.interop.t5x",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outgoing:
    """What is exported.

    Attributes:
        model: the module.
        params: its float32 parameters by path: `embedding`, `layers/query` [N, D, H, K], ...; or
            adapters by path, which `origin` describes (`lora`, `base`).
        vocabulary: of its tokens.
        context_length: tokens per row in training.
        dtype: of the written weights, one of the layout's.
        origin: what is known of the run, for a model card: `step`, `num_params`, `license`, ...
    """

    model: nn.Module
    params: Tensors
    vocabulary: Vocabulary
    context_length: int
    dtype: str
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportLayout:
    """A layout that palmscale writes.

    Attributes:
        dtypes: that it can hold; the first is the default.
        write: writes what is exported to a file or folder that does not exist yet.
        check: reads what was written as its engine would, compares logits with the model's, and
            returns a sentence of what it compared. Raises RuntimeError where they differ. None:
            there is nothing to compare.
        holds_adapters: whether it holds adapters (LoRA) alone, and not whole parameters.
    """

    dtypes: tuple[str, ...]
    write: Callable[[Outgoing, Path], None]
    check: Callable[[Outgoing, Path], str] | None = None
    holds_adapters: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What a file does not say of its model; None: not given.

    Attributes:
        heads: number of query heads.
        dim_head: size of a head.
        norm_scale_offset: a stored norm scale s acts as s + offset.
        final_norm: `scaled`, `unscaled` or `none`.
    """

    heads: int | None = None
    dim_head: int | None = None
    norm_scale_offset: float | None = None
    final_norm: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Incoming:
    """What a file may hold.

    Attributes:
        model: the module.
        params: its float32 parameters by path; see `Outgoing`.
        vocabulary: of its tokens; None: the layout does not hold it.
        context_length: tokens per row in training; None: the layout does not hold it.
        choice: the options that make this model of the file, where they could be others.
    """

    model: nn.Module
    params: Tensors
    vocabulary: Vocabulary | None = None
    context_length: int | None = None
    choice: Options = Options()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportLayout:
    """A layout that palmscale reads.

    Attributes:
        options: names of the fields of `Options` that it takes.
        read: returns what a file or folder holds: one model, or, where the options leave it open,
            several, of which the perplexity of given text decides.
    """

    options: tuple[str, ...] = ()
    read: Callable[[Path, Options], Sequence[Incoming]]


def export_layout(name: str) -> ExportLayout:
    """Returns the layout of that name.

    Raises:
        UserError: there is none, or a package that it needs is not installed.
    """
    return _found(name, EXPORTS, "export").EXPORT


def import_layout(name: str) -> ImportLayout:
    """Returns the layout of that name; see `export_layout`."""
    return _found(name, IMPORTS, "import").IMPORT


def _found(name: str, modules: Mapping[str, str], what: str) -> Any:
    if name not in modules:
        raise UserError(f"there is no {what} layout {name!r}; known: {', '.join(modules)}.")
    return importlib.import_module(modules[name])
