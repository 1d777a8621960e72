"""The interface of a model: what a Linen module must offer, what is optional, and the defaults.

To be trained, a module needs

    hidden(tokens_BL, segment_BL=None, position_BL=None) -> x_BLD    the last layer's output
    unembed(x_BLD) -> logits_BLV                                     float32
    __call__(tokens_BL) -> logits_BLV                                both; it initializes

and `nn.with_logical_partitioning` on its parameters. `segment_BL` and `position_BL` are passed only
for packed rows. Everything else is optional, and only this file reads it:

    num_tokens: int            number of ids with a probability; checked against the vocabulary
    stored_tokens: int         rows of the token table, including padding (default: num_tokens)
    depth: int                 number of layers (default: 1)
    remat                      what is saved for the backward pass (default: "none")
    attention_flops_per_token(sequence_length) -> int    in training (default: 0)

To generate text it also needs

    extend(tokens_BL, cache) -> (x_BLD, cache)    see palmscale.model.palm.PaLM.extend

and `depth`, `dim_head` and `dtype`, which describe its multi-query cache, or `cache_spec()`.
It may say which weights generation casts, quantizes and takes apart by layer, with
`decoding_weights()`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn

from palmscale.errors import UserError
from palmscale.model.adapted import is_adapted


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheSpec:
    """The key-value cache of a model: `layers` x 2 arrays of [batch, positions, head_dim].

    Attributes:
        layers: N.
        head_dim: K, or all of the width that a position keeps.
        dtype: of keys and values.
        ragged: whether `extend` takes a cache whose `length` is [B]; otherwise it is called for one
            sequence at a time, mapped over sequences.
    """

    layers: int
    head_dim: int
    dtype: str
    ragged: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodingWeights:
    """Which parameters may have another form, in the collection `DECODING`.

    Attributes:
        stacked: the parameter whose leaves are [N, ...], one entry a layer; `extend` also takes a
            tuple of N trees.
        kept: names of parameters that stay as they are, such as norm scales; all others are cast to
            the module's `dtype`.
        summed: the dims of a weight that its products sum over, from its last (-1), by its name:
            those named here may be quantized, with a scale for each index of the other dims, and
            may have adapters (LoRA). The module passes them to `attention.contract` or
            `attention.dense`.
    """

    stacked: str
    kept: tuple[str, ...]
    summed: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)


# The collection of variables that takes the place of `params` where weights have another form.
DECODING = "decoding"


def is_formed(leaf: Any) -> bool:
    """Returns whether a leaf of a parameter tree is quantized, or has an adapter."""
    return is_adapted(leaf) or hasattr(leaf, "qvalue")


def variables_of(params: Any) -> dict[str, Any]:
    """Returns the variables of a module from its parameters, some of which may be `is_formed`."""
    # Flax checks the shapes of `params`, which such weights do not have.
    formed = any(map(is_formed, jax.tree.leaves(params, is_leaf=is_formed)))
    return {DECODING if formed else "params": params}


def check_trainable(model: nn.Module) -> None:
    """Raises UserError for a module without `hidden` or `unembed`."""
    for method in ("hidden", "unembed"):
        if not hasattr(model, method):
            raise UserError(
                f"{type(model).__name__} has no `{method}`; a module can be trained only with"
                " hidden(tokens_BL) -> x_BLD and unembed(x_BLD) -> logits_BLV."
            )


def generates(model: nn.Module) -> bool:
    """Returns whether the module can generate text."""
    return hasattr(model, "extend")


def check_generates(model: nn.Module) -> None:
    """Raises UserError for a module that cannot generate text."""
    if not generates(model):
        raise UserError(
            f"{type(model).__name__} cannot generate text: it has no `extend(tokens_BL, cache)`;"
            " add one like that of palmscale.model.palm.PaLM."
        )


def cache_spec(model: nn.Module) -> CacheSpec:
    """Returns the description of the module's key-value cache.

    Raises:
        UserError: the module does not describe one.
    """
    check_generates(model)
    if hasattr(model, "cache_spec"):
        return model.cache_spec()
    missing = [name for name in ("depth", "dim_head", "dtype") if not hasattr(model, name)]
    if missing:
        raise UserError(
            f"{type(model).__name__} cannot generate text: its cache is not described without"
            f" {', '.join(missing)}; add these fields or a method `cache_spec()`."
        )
    return CacheSpec(layers=model.depth, head_dim=model.dim_head, dtype=model.dtype)


def decoding_weights(model: nn.Module) -> DecodingWeights | None:
    """Returns which parameters generation may hold in another form; None: none."""
    return model.decoding_weights() if hasattr(model, "decoding_weights") else None


def num_tokens(model: nn.Module) -> int | None:
    """Returns the number of ids with a probability; None if the module does not define it."""
    return getattr(model, "num_tokens", None)


def stored_tokens(model: nn.Module) -> int | None:
    """Returns the rows of the token table, including padding; None if not defined."""
    return getattr(model, "stored_tokens", num_tokens(model))


def depth(model: nn.Module) -> int:
    """Returns the number of layers; 1 if the module does not define it."""
    return getattr(model, "depth", 1)


def remat(model: nn.Module) -> Any:
    """Returns what is saved for the backward pass, in the form of `PaLM.remat`."""
    return getattr(model, "remat", "none")


def attention_flops_per_token(model: nn.Module, sequence_length: int) -> int:
    """Returns attention's training FLOPs per token, without a discount for masking; 0 if unknown.

    Masked pairs are included, as in the paper's count.
    """
    if not hasattr(model, "attention_flops_per_token"):
        return 0
    return model.attention_flops_per_token(sequence_length)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dimensions:
    """Sizes of a model that has the fields of PaLM: D, H, K, F, N and the rows of its table."""

    width: int
    heads: int
    head_dim: int
    mlp: int
    layers: int
    stored_tokens: int


def has_dimensions(model: nn.Module) -> bool:
    """Returns whether the module has the fields of PaLM that `dimensions` reads."""
    return not _missing_dimensions(model)


def _missing_dimensions(model: nn.Module) -> list[str]:
    needed = ("dim", "heads", "dim_head", "depth", "num_tokens")
    return [name for name in needed if not hasattr(model, name)]


def dimensions(model: nn.Module) -> Dimensions:
    """Returns the sizes of a model with the fields of PaLM.

    Raises:
        UserError: fields are missing.
    """
    missing = _missing_dimensions(model)
    if missing:
        raise UserError(
            f"{type(model).__name__} has no {', '.join(missing)}; other layouts are estimated from"
            " the fields of PaLM, so plan the layouts of this module one by one."
        )
    return Dimensions(
        width=model.dim,
        heads=model.heads,
        head_dim=model.dim_head,
        mlp=model.dim * getattr(model, "ff_mult", 4),
        layers=model.depth,
        stored_tokens=stored_tokens(model) or model.num_tokens,
    )
