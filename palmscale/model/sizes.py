"""Parameter counts and FLOPs of a model.

A run's MFU, its plan's MFU and `palmscale explain` all use these functions.
"""

import dataclasses
import math
from typing import Any

import jax
from flax import linen as nn

from palmscale import axes
from palmscale.errors import UserError
from palmscale.model import interface


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParameterCounts:
    """Numbers of parameters.

    Attributes:
        stored: all of them.
        without_norms: without norm scales.
        model: the paper's count, without norm scales and vocabulary padding.
    """

    stored: int
    without_norms: int
    model: int


def padded_tokens(*, num_tokens: int, multiple: int) -> int:
    """Returns the rows of a token table: `num_tokens` rounded up to a multiple of `multiple`.

    Args:
        num_tokens: number of ids in the vocabulary, at least 1.
        multiple: of the sizes of the mesh axes over which the table is sharded, at least 1.

    Args:
        num_tokens: number of ids in the vocabulary.
        multiple: of the sizes of the mesh axes over which the table is sharded.

    Raises:
        UserError: a number is below 1.
    """
    if num_tokens < 1 or multiple < 1:
        raise UserError(
            f"padded_tokens.num_tokens={num_tokens} and padded_tokens.multiple={multiple} must be"
            " at least 1."
        )
    return -(-num_tokens // multiple) * multiple


def count_parameters(boxed_params: Any, model: nn.Module) -> ParameterCounts:
    """Returns the parameter counts of `model`, from its shapes boxed with logical axes."""
    tokens = interface.num_tokens(model)
    stored = without_norms = counted = 0
    for leaf in jax.tree.leaves(boxed_params, is_leaf=_is_box):
        shape = leaf.value.shape if _is_box(leaf) else leaf.shape
        names = leaf.names if _is_box(leaf) else (None,) * len(shape)
        stored += math.prod(shape)
        if axes.NORM in names or axes.CENTERED_NORM in names:
            continue
        without_norms += math.prod(shape)
        counted += math.prod(
            min(size, tokens) if tokens is not None and name == axes.VOCAB else size
            for size, name in zip(shape, names, strict=True)
        )
    return ParameterCounts(stored=stored, without_norms=without_norms, model=counted)


def training_flops_per_token(
    model: nn.Module, num_params: int, sequence_length: int, *, trained: int | None = None
) -> tuple[int, int]:
    """Returns the model FLOPs of training per token: (matmuls with weights, attention).

    This is the paper's count (appendix B): 6 per parameter, and 12 N H K L for attention, half of
    which a causal mask would leave. A frozen parameter counts 4: it has no gradient of its own.

    Args:
        model: the module.
        num_params: `ParameterCounts.model`.
        sequence_length: L.
        trained: of `num_params`, those that train; None: all.
    """
    frozen = 0 if trained is None else num_params - trained
    return 6 * num_params - 2 * frozen, interface.attention_flops_per_token(model, sequence_length)


def _is_box(leaf: Any) -> bool:
    return isinstance(leaf, nn.Partitioned)
