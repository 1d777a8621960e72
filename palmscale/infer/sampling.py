"""How the next token is drawn: what a request may ask for, and the values of its row in a batch."""

import dataclasses
import math
from typing import Any

import numpy as np

from palmscale.errors import UserError

# float32's least; devices take what is smaller for 0.
LEAST = 2.0**-126
_MOST = float(np.finfo(np.float32).max)
_MOST_TOP_K = 2**31 - 1
_MOST_BIAS = 100.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is drawn. The paper samples code with temperature 0.8 and top_p 0.95.

    The logits pass through these steps, in this order, which is that of Hugging Face's
    transformers: `logit_bias`, `repetition_penalty`, `presence_penalty` and `frequency_penalty`,
    `temperature`, `top_k`, `top_p`, `min_p`. Of several tokens with equal logits a filter keeps all
    or none.

    Attributes:
        temperature: divides the logits; 0, or what float32 takes for 0, is greedy.
        top_k: only the k likeliest tokens; None: all.
        top_p: only the likeliest tokens that hold this probability together, at least one, of what
            `top_k` leaves (Holtzman et al. 2019); None: all.
        min_p: only tokens with at least this share of the likeliest token's probability (Nguyen et
            al. 2024); None: all.
        repetition_penalty: divides the positive and multiplies the negative logits of tokens in the
            prompt or the output (Keskar et al. 2019); 1: no penalty.
        presence_penalty: subtracted from the logits of tokens in the output, -2 to 2.
        frequency_penalty: subtracted once for each time that a token is in the output, -2 to 2.
        logit_bias: pairs of a token id and what is added to its logit, -100 to 100.

    Raises:
        UserError: a value is out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise UserError(f"temperature={self.temperature} must be 0 (greedy) or more.")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k={self.top_k} must be at least 1.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p} must be in (0, 1].")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise UserError(f"min_p={self.min_p} must be in [0, 1].")
        if not 0 < self.repetition_penalty < math.inf:
            raise UserError(
                f"repetition_penalty={self.repetition_penalty} must be more than 0 and finite; 1 is"
                " no penalty."
            )
        for name in ("presence_penalty", "frequency_penalty"):
            if not -2 <= getattr(self, name) <= 2:
                raise UserError(f"{name}={getattr(self, name)} must be in [-2, 2].")
        for token_id, bias in self.logit_bias:
            if token_id < 0:
                raise UserError(f"logit_bias names the token id {token_id}; ids begin at 0.")
            if not -_MOST_BIAS <= bias <= _MOST_BIAS:
                raise UserError(f"logit_bias={bias} of token id {token_id} must be in [-100, 100].")

    @property
    def filters(self) -> bool:
        """Whether some tokens are left out by their rank or probability."""
        return any(value is not None for value in (self.top_k, self.top_p, self.min_p))

    @property
    def penalizes(self) -> bool:
        """Whether what was written before changes the logits."""
        penalties = (self.repetition_penalty, self.presence_penalty, self.frequency_penalty)
        return penalties != (1, 0, 0)


def row_of(sampling: Sampling, seed: int) -> dict[str, Any]:
    """Returns a sequence's entry of each of these arrays of `draw.Rows`, by its name.

    These are `temperature_B`, `top_k_B`, `top_p_B`, `min_p_B`, `key_B2`, `repetition_B`,
    `presence_B` and `frequency_B`. The key is that of `jax.random.key(seed)`, whose upper half is
    not 0 if the seed is negative or has more than 32 bits.
    """
    return {
        "temperature_B": np.float32(min(sampling.temperature, _MOST)),
        "top_k_B": np.int32(min(sampling.top_k or 0, _MOST_TOP_K)),
        "top_p_B": np.float32(1 if sampling.top_p is None else sampling.top_p),
        "min_p_B": np.float32(sampling.min_p or 0),
        "key_B2": np.array([int(seed) >> 32 & 0xFFFFFFFF, int(seed) & 0xFFFFFFFF], np.uint32),
        "repetition_B": np.float32(sampling.repetition_penalty),
        "presence_B": np.float32(sampling.presence_penalty),
        "frequency_B": np.float32(sampling.frequency_penalty),
    }


def bias_of(sampling: Sampling, size: int) -> np.ndarray:
    """Returns a sequence's entry of `draw.Rows.bias_BV`, float32 [size].

    Raises:
        UserError: `logit_bias` names an id of `size` or more.
    """
    bias_V = np.zeros(size, np.float32)
    for token_id, bias in sampling.logit_bias:
        if token_id >= size:
            raise UserError(
                f"logit_bias names the token id {token_id}; ids of this model end at {size - 1}."
            )
        bias_V[token_id] += bias
    return bias_V


def allowed_of(allowed_V: np.ndarray, *, size: int, withheld: frozenset[int]) -> np.ndarray:
    """Returns a sequence's entry of `draw.Rows.allowed_BV`, bool [size].

    Args:
        allowed_V: ids that may come next, such as those of a guide; ids past its end may not.
        size: V of the logits.
        withheld: of these, what may not come yet, such as stop ids before `min_tokens`; it may if a
            guide allows nothing else: its text is complete.
    """
    allowed_V = np.pad(allowed_V, (0, size - len(allowed_V)))
    rest_V = allowed_V.copy()
    rest_V[[token_id for token_id in withheld if 0 <= token_id < size]] = False
    return rest_V if rest_V.any() else allowed_V
