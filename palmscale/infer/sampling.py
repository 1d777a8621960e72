"""From logits to the next token: greedy, temperature, top-k, top-p."""

import dataclasses

import jax
import jax.numpy as jnp

from palmscale.errors import UserError
from palmscale.model.attention import MASKED_LOGIT

_LEAST = 2.0**-126  # float32's; devices take what is smaller for 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is drawn. The paper samples code with temperature 0.8 and top_p 0.95.

    Attributes:
        temperature: divides the logits; 0, or what float32 takes for 0, is greedy.
        top_k: only the k likeliest tokens; None: all.
        top_p: only the likeliest tokens that hold this probability together, at least one
            (Holtzman et al. 2019); None: all. Applied after temperature and top_k.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise UserError(f"temperature={self.temperature} must be 0 (greedy) or more.")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k={self.top_k} must be at least 1.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p={self.top_p} must be in (0, 1].")


def sample(logits_BV: jax.Array, key: jax.Array, sampling: Sampling) -> jax.Array:
    """Returns one token id a sequence, int32 [B]; a function of the logits and the key alone.

    A token that the model has masked, such as a padding id, is drawn at no temperature.
    """
    if sampling.temperature < _LEAST:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    masked_BV = logits_BV <= MASKED_LOGIT / 2
    logits_BV = logits_BV.astype(jnp.float32)
    # The largest becomes 0, so that no temperature makes it infinite.
    logits_BV = (logits_BV - logits_BV.max(axis=-1, keepdims=True)) / sampling.temperature
    logits_BV = jnp.where(masked_BV, -jnp.inf, logits_BV)
    if sampling.top_k is not None and sampling.top_k < logits_BV.shape[-1]:
        least_B1 = jax.lax.top_k(logits_BV, sampling.top_k)[0][:, -1:]
        logits_BV = jnp.where(logits_BV >= least_B1, logits_BV, -jnp.inf)
    if sampling.top_p is not None:
        descending_BV = -jnp.sort(-logits_BV, axis=-1)
        p_BV = jax.nn.softmax(descending_BV, axis=-1)
        # A token is in when those before it hold less than top_p: the first always is.
        before_BV = jnp.cumsum(p_BV, axis=-1) - p_BV
        kept_BV = jnp.where(before_BV < max(sampling.top_p, _LEAST), descending_BV, jnp.inf)
        logits_BV = jnp.where(logits_BV >= kept_BV.min(axis=-1, keepdims=True), logits_BV, -jnp.inf)
    return jax.random.categorical(key, logits_BV).astype(jnp.int32)
