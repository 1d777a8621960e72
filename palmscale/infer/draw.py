"""From logits to the next token: each sequence of a batch by the values of its own row."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from palmscale.infer.sampling import LEAST
from palmscale.model.attention import MASKED_LOGIT

_INFINITY_BITS = 0x7F800000  # of float32


@struct.dataclass
class Rows:
    """How each of B sequences is sampled; `sampling.row_of` gives the entries.

    Fields that default to None cost nothing without them. The penalties come all five together.

    Attributes:
        temperature_B: float32; 0 is greedy.
        top_k_B: int32; 0: all.
        top_p_B: float32, in (0, 1]; 1: all.
        min_p_B: float32, in [0, 1]; 0: all.
        key_B2: uint32, of the sequence's seed.
        repetition_B: float32; 1: no penalty.
        presence_B: float32; 0: no penalty.
        frequency_B: float32; 0: no penalty.
        seen_BV: bool, the ids in the prompt or the output.
        count_BV: int32, how often each id is in the output.
        bias_BV: float32, added to the logits.
        allowed_BV: bool, the ids that may be drawn, at least one.
    """

    temperature_B: jax.Array
    top_k_B: jax.Array
    top_p_B: jax.Array
    min_p_B: jax.Array
    key_B2: jax.Array
    repetition_B: jax.Array | None = None
    presence_B: jax.Array | None = None
    frequency_B: jax.Array | None = None
    seen_BV: jax.Array | None = None
    count_BV: jax.Array | None = None
    bias_BV: jax.Array | None = None
    allowed_BV: jax.Array | None = None

    def after(self, token_B: jax.Array, is_drawn_B: jax.Array) -> "Rows":
        """Returns the rows once their sequences have a token more, where `is_drawn_B`."""
        if self.seen_BV is None or self.count_BV is None:
            return self
        row_B = jnp.arange(len(token_B))
        return self.replace(
            seen_BV=self.seen_BV.at[row_B, token_B].max(is_drawn_B),
            count_BV=self.count_BV.at[row_B, token_B].add(is_drawn_B.astype(jnp.int32)),
        )


@struct.dataclass
class Drawn:
    """The next token of each sequence.

    Log-probabilities are natural, float32, and of the model's own distribution: the softmax of the
    logits as they came.

    Attributes:
        token_B: int32.
        log_probability_B: of the token.
        top_ids_BK: int32, the likeliest ids; padding ids come last.
        top_log_probabilities_BK: of these, descending.
    """

    token_B: jax.Array
    log_probability_B: jax.Array
    top_ids_BK: jax.Array
    top_log_probabilities_BK: jax.Array


def sample(
    logits_BV: jax.Array, rows: Rows, position_B: jax.Array, *, filters: bool, top: int
) -> Drawn:
    """Returns the next token of each sequence.

    It is a function of the sequence's own logits, row and position: neither the other sequences nor
    the mesh change its random numbers. A token that the model has masked, such as a padding id, is
    drawn at no temperature.

    Args:
        logits_BV: of the next token; the vocabulary may be sharded.
        rows: how each sequence is sampled.
        position_B: int32, of the token in its sequence; no other token of it has the same.
        filters: whether any row uses top_k, top_p or min_p, which takes a search; static.
        top: how many of the likeliest ids to return, K, at most V; static.
    """
    raw_BV = logits_BV.astype(jnp.float32)
    logits_BV = _adjusted(raw_BV, rows)
    is_greedy_B = rows.temperature_B < LEAST

    def drawn_or_greedy() -> jax.Array:
        tempered_BV = _tempered(logits_BV, jnp.where(is_greedy_B, 1, rows.temperature_B))
        if filters:
            is_kept_BV = -tempered_BV <= _farthest(-tempered_BV, rows)
            tempered_BV = jnp.where(is_kept_BV, tempered_BV, -jnp.inf)
        # The largest of logits plus Gumbel noise is a draw from their softmax.
        noisy_BV = tempered_BV + _gumbel(rows.key_B2, position_B, tempered_BV.shape[1])
        return jnp.where(is_greedy_B[:, None], logits_BV, noisy_BV)

    # Random numbers for a whole vocabulary are not free.
    decisive_BV = jax.lax.cond(is_greedy_B.all(), lambda: logits_BV, drawn_or_greedy)
    token_B = jnp.argmax(decisive_BV, axis=-1).astype(jnp.int32)
    total_B1 = jax.nn.logsumexp(raw_BV, axis=-1, keepdims=True)
    top_BK, top_ids_BK = jax.lax.top_k(raw_BV, top)
    return Drawn(
        token_B=token_B,
        log_probability_B=(jnp.take_along_axis(raw_BV, token_B[:, None], 1) - total_B1)[:, 0],
        top_ids_BK=top_ids_BK,
        top_log_probabilities_BK=top_BK - total_B1,
    )


def _adjusted(logits_BV: jax.Array, rows: Rows) -> jax.Array:
    """Returns the logits after bias and penalties; -inf where no token may be drawn."""
    is_open_BV = logits_BV > MASKED_LOGIT / 2
    if rows.allowed_BV is not None:
        is_open_BV &= rows.allowed_BV
    if rows.bias_BV is not None:
        logits_BV = logits_BV + rows.bias_BV
    if rows.seen_BV is not None:
        repetition_B1 = rows.repetition_B[:, None]
        less_BV = jnp.where(logits_BV > 0, logits_BV / repetition_B1, logits_BV * repetition_B1)
        logits_BV = jnp.where(rows.seen_BV, less_BV, logits_BV)
        logits_BV -= rows.presence_B[:, None] * (rows.count_BV > 0)
        logits_BV -= rows.frequency_B[:, None] * rows.count_BV
    return jnp.where(is_open_BV, logits_BV, -jnp.inf)


def _tempered(logits_BV: jax.Array, temperature_B: jax.Array) -> jax.Array:
    """Returns the logits divided by a positive temperature, with their largest at 0."""
    # The largest becomes 0 first, so that no temperature makes it infinite.
    tempered_BV = (logits_BV - logits_BV.max(axis=-1, keepdims=True)) / temperature_B[:, None]
    return jnp.where(logits_BV > -jnp.inf, tempered_BV, -jnp.inf)


def _farthest(distance_BV: jax.Array, rows: Rows) -> jax.Array:
    """Returns how far from the largest logit each row's top_k, top_p and min_p reach, [B, 1]."""
    V = distance_BV.shape[1]
    k_B1 = jnp.where(rows.top_k_B > 0, jnp.minimum(rows.top_k_B, V), V)[:, None]
    by_top_k_B1 = _least(lambda at_B1: _sum(distance_BV <= at_B1) >= k_B1, like=k_B1)

    p_BV = jnp.where(distance_BV <= by_top_k_B1, jnp.exp(-distance_BV), 0)
    top_p_B1 = rows.top_p_B[:, None]
    wanted_B1 = top_p_B1 * _sum(p_BV)
    by_top_p_B1 = _least(
        lambda at_B1: _sum(jnp.where(distance_BV <= at_B1, p_BV, 0)) >= wanted_B1, like=k_B1
    )
    # A sum may round to all before the last token.
    by_top_p_B1 = jnp.where(top_p_B1 < 1, by_top_p_B1, jnp.inf)

    by_min_p_B1 = -jnp.log(rows.min_p_B)[:, None]
    return jnp.minimum(jnp.minimum(by_top_k_B1, by_top_p_B1), by_min_p_B1)


def _sum(a_BV: jax.Array) -> jax.Array:
    """Returns the sums of rows, [B, 1]."""
    return a_BV.sum(axis=-1, keepdims=True)


def _least(is_reached: Callable[[jax.Array], jax.Array], *, like: jax.Array) -> jax.Array:
    """Returns the least float32 from 0 to infinity at which a monotone condition holds.

    That of infinity is taken for granted. The search halves the range of the float's bits, which
    are in the order of the floats, as T5X's binary search does; a sort of a vocabulary takes
    several times as long, and gathers one that is sharded.

    Args:
        is_reached: of floats, elementwise.
        like: has the shape of the result.
    """

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        below, above = bounds
        middle = above - (above - below) // 2  # never `below`, which begins as no float
        is_above = is_reached(jax.lax.bitcast_convert_type(middle, jnp.float32))
        return jnp.where(is_above, below, middle), jnp.where(is_above, middle, above)

    below = jnp.full_like(like, -1, jnp.int32)
    above = jnp.full_like(like, _INFINITY_BITS, jnp.int32)
    _, above = jax.lax.fori_loop(0, 31, halve, (below, above))
    return jax.lax.bitcast_convert_type(above, jnp.float32)


def _gumbel(key_B2: jax.Array, position_B: jax.Array, size: int) -> jax.Array:
    """Returns noise, float32 [B, size], of each sequence's key and position alone."""

    def of_row(key_2: jax.Array, position: jax.Array) -> jax.Array:
        # Generator and mode are named, so that a seed draws the same whatever JAX's settings are.
        key = jax.random.wrap_key_data(key_2, impl="threefry2x32")
        key = jax.random.fold_in(key, position)
        return jax.random.gumbel(key, (size,), jnp.float32, mode="low")

    return jax.vmap(of_row)(key_B2, position_B)
