"""The log-probability of given text under a model."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from palmscale.model.interface import variables_of

_LEAST_LENGTH = 128  # rows are padded to a power of two from here: one program for each
_CHUNK_LENGTH = 128  # positions whose logits exist at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """What a model says of a text.

    Attributes:
        token_ids: of the text, int32 [L].
        log_probabilities: of each token given those before it, natural, float32 [L].
        bits_per_byte: of the text's UTF-8 bytes; nan for an empty text.
    """

    token_ids: np.ndarray
    log_probabilities: np.ndarray
    bits_per_byte: float

    @property
    def log_probability(self) -> float:
        """Of the whole text."""
        return float(self.log_probabilities.sum(dtype=np.float64))


def score(
    *,
    model: nn.Module,
    params: Any,
    row: np.ndarray,
    text_bytes: int,
    context_length: int | None = None,
) -> Score:
    """Returns the score of a text.

    Args:
        model: offers `hidden` and `unembed`.
        params: of the model; they may be quantized.
        row: int32 [1 + L]: the bos id, then the text's ids.
        text_bytes: UTF-8 bytes of the text.
        context_length: tokens that the model sees at once; a longer text is scored in `windows`.
            None: it sees the whole text.
    """
    parts = [np.zeros(0, np.float32)]
    for start, first, end in windows(len(row) - 1, context_length or len(row)):
        window = row[start : end + 1]
        padded_BL = np.zeros((1, padded_length(len(window) - 1) + 1), np.int32)
        padded_BL[0, : len(window)] = window
        scored_L = np.asarray(scores_of(model, params, padded_BL)[0])[0]
        parts.append(scored_L[first - start : end - start])
    log_probabilities_L = np.concatenate(parts)
    nats = -float(log_probabilities_L.sum(dtype=np.float64))
    return Score(
        token_ids=row[1:],
        log_probabilities=log_probabilities_L,
        bits_per_byte=nats / math.log(2) / text_bytes if text_bytes else math.nan,
    )


def windows(length: int, context_length: int) -> Iterator[tuple[int, int, int]]:
    """Yields the windows in which a text is scored, each token once.

    They are those of lm-eval's rolling log-likelihood with a context of one token: the first token
    of a window sees one before it, and the last window moves back until it is full.

    Args:
        length: tokens after the bos id.
        context_length: tokens that a window sees.

    Yields:
        (start, first, end): of the row that begins with the bos id, a window sees [start, end) and
        scores (first, end].
    """
    for first in range(0, length, context_length):
        end = min(first + context_length, length)
        yield max(0, end - context_length), first, end


def padded_length(length: int) -> int:
    """Returns the length of a row with room for `length` tokens: one program serves many."""
    return max(_LEAST_LENGTH, 1 << (length - 1).bit_length())


@functools.partial(jax.jit, static_argnums=0)
def scores_of(model: nn.Module, params: Any, row_BL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns what a model says of each of row_BL[:, 1:] given those before.

    Args:
        model: offers `hidden` and `unembed`.
        params: of the model; they may be quantized.
        row_BL: 1 + `padded_length(...)` ids a row.

    Returns:
        (log-probabilities, float32 [B, L]; whether no other id is likelier, bool [B, L]).
    """
    variables = variables_of(params)
    x_BLD = model.apply(variables, row_BL[:, :-1], method="hidden")
    B, L, D = x_BLD.shape

    def of_chunk(x_and_target: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x_BCD, target_BC = x_and_target
        return of_targets(model.apply(variables, x_BCD, method="unembed"), target_BC)

    chunks = L // _CHUNK_LENGTH
    x_NBCD = jnp.moveaxis(x_BLD.reshape(B, chunks, _CHUNK_LENGTH, D), 1, 0)
    target_NBC = jnp.moveaxis(row_BL[:, 1:].reshape(B, chunks, _CHUNK_LENGTH), 1, 0)
    scores_NBC = jax.lax.map(of_chunk, (x_NBCD, target_NBC))
    return jax.tree.map(lambda x_NBC: jnp.moveaxis(x_NBC, 0, 1).reshape(B, L), scores_NBC)


def of_targets(logits_BLV: jax.Array, target_BL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the log-probability of each target, and whether no other id is likelier."""
    logits_BLV = logits_BLV.astype(jnp.float32)
    chosen_BL = jnp.take_along_axis(logits_BLV, target_BL[..., None], axis=-1)[..., 0]
    log_p_BL = chosen_BL - jax.nn.logsumexp(logits_BLV, axis=-1)
    return log_p_BL, chosen_BL >= jnp.max(logits_BLV, axis=-1)
