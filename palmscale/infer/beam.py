"""Beam search: the likeliest continuations of a prompt, several at a time."""

import dataclasses
import functools
import math
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from palmscale.errors import UserError
from palmscale.infer import programs
from palmscale.infer.partition import entered, phase
from palmscale.infer.request import Request
from palmscale.infer.staging import Staging
from palmscale.model.attention import MASKED_LOGIT, Cache
from palmscale.partition.layout import DeviceLayout
from palmscale.partition.shardings import constrain

_CHUNK = 128  # tokens of the prompt that are computed at once
_LEAST_POSITIONS = 128  # the cache holds a power of two of tokens from here: one program for each


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beam:
    """A continuation that beam search found.

    Attributes:
        tokens: its ids, the last of which is a stop id or number `max_tokens`.
        log_probability: of all its tokens given those before, natural.
        score: `log_probability` divided by ((5 + L) / 6) to the power of the length penalty, where
            L is the number of tokens (Wu et al. 2016, equation 14).
    """

    tokens: tuple[int, ...]
    log_probability: float
    score: float


def beam_search(
    *,
    model: nn.Module,
    variables: Any,
    prompt: np.ndarray,
    beams: int,
    max_tokens: int,
    length_penalty: float = 0.6,
    stop_ids: Collection[int] = (),
    layout: DeviceLayout | None = None,
) -> list[Beam]:
    """Returns the best continuations of a prompt, at most `beams`, by descending score.

    Each step keeps the `beams` likeliest continuations by one token of those that it has; the ones
    that end leave the search. The greedy continuation is always kept, so that the best beam scores
    at least as much; one beam is the greedy continuation. The search ends when none that goes on
    could score more than those that ended.

    Args:
        model: offers `extend` and `unembed`.
        variables: of the model; see `palmscale.infer.weights.decoding_form`.
        prompt: int32 [L], L at least 1: begin with the bos id.
        beams: continuations that are kept, at least 1.
        max_tokens: tokens of a continuation at most.
        length_penalty: 0 or more; the more, the longer the continuations that score best. 0.6 is
            T5X's.
        stop_ids: ids that end a continuation.
        layout: where the variables lie, with the rules of one sequence; None: on one device.

    Raises:
        UserError: a value is out of range, or the model cannot generate.
    """
    if beams < 1:
        raise UserError(f"beams={beams} must be at least 1.")
    if not 0 <= length_penalty < math.inf:
        raise UserError(f"length_penalty={length_penalty} must be 0 or more, and finite.")
    request = Request(prompt=prompt, max_tokens=max_tokens)

    def scored(continuation: _Continuation, length: int) -> float:
        return continuation.log_probability / ((5 + length) / 6) ** length_penalty

    lanes = _Lanes(model, variables, layout, request, beams)
    last = _Continuation((int(prompt[-1]),), 0.0, lane=0)
    live, ended, greedy_lives = [last], [], True
    for _ in range(max_tokens):
        log_p_BK, ids_BK = lanes.advance(live)
        kept = _kept(live, log_p_BK, ids_BK, beams, greedy_lives)
        live = [c for c in kept if c.tokens[-1] not in stop_ids]
        greedy_lives = greedy_lives and live[:1] == kept[:1]
        ended += [c for c in kept if c.tokens[-1] in stop_ids]
        ended.sort(key=lambda c: -scored(c, c.length))
        if not live:
            break
        # The longer, the larger the score of the same log-probability, which only falls.
        bound = max(scored(c, max_tokens) for c in live)
        if len(ended) >= beams and scored(ended[beams - 1], ended[beams - 1].length) >= bound:
            live = []
            break
    found = sorted([*ended, *live], key=lambda c: -scored(c, c.length))
    return [
        Beam(tokens=c.tokens[1:], log_probability=c.log_probability, score=scored(c, c.length))
        for c in found[:beams]
    ]


@dataclasses.dataclass(frozen=True)
class _Continuation:
    """Tokens from the prompt's last one on, and the lane of the cache with all but the newest."""

    tokens: tuple[int, ...]
    log_probability: float
    lane: int

    @property
    def length(self) -> int:
        return len(self.tokens) - 1


class _Lanes:
    """The cache of `beams` sequences side by side, which begin as the prompt but its last token."""

    def __init__(
        self,
        model: nn.Module,
        variables: Any,
        layout: DeviceLayout | None,
        request: Request,
        beams: int,
    ) -> None:
        positions = _LEAST_POSITIONS
        while positions < len(request.prompt) + request.max_tokens:
            positions *= 2
        apart = programs.layers_apart(model, variables)
        staging = Staging(model, variables, positions, chunk=_CHUNK, apart=apart, layout=layout)
        while not staging.is_done(request):
            staging.advance(request, [])
        length_B = np.array([len(request.prompt) - 1], np.int32)
        self._cache = staging.cache.replace(length=length_B)  # of one lane so far
        self._model, self._variables, self._beams = model, variables, beams
        self._layout = layout and phase(model, layout, sequences=beams, new_tokens=1)[0]

    def advance(self, live: list[_Continuation]) -> tuple[np.ndarray, np.ndarray]:
        """Adds the newest token of each continuation, whose lane is then its place in `live`.

        Returns the log-probabilities of the likeliest next ids of each lane, and these ids.
        """
        filled = live + live[:1] * (self._beams - len(live))
        lane_B = np.array([c.lane for c in filled], np.int32)
        token_B = np.array([c.tokens[-1] for c in filled], np.int32)
        with entered(self._layout):
            if not np.array_equal(lane_B, np.arange(len(self._cache.length))):
                self._cache = _gathered(self._cache, lane_B)
            self._cache, *found = _likeliest(self._model, self._variables, self._cache, token_B)
        return tuple(jax.device_get(found))


def _kept(
    live: list[_Continuation],
    log_p_BK: np.ndarray,
    ids_BK: np.ndarray,
    beams: int,
    greedy_lives: bool,
) -> list[_Continuation]:
    """Returns the likeliest continuations by one more token, first of all the greedy one's."""
    longer = [
        _Continuation((*c.tokens, token_id), c.log_probability + log_p, lane)
        for lane, c in enumerate(live)
        for log_p, token_id in zip(log_p_BK[lane].tolist(), ids_BK[lane].tolist(), strict=True)
        if log_p > MASKED_LOGIT / 2
    ]
    greedy, others = (longer[:1], longer[1:]) if greedy_lives else ([], longer)
    others.sort(key=lambda c: -c.log_probability)
    return [*greedy, *others][:beams]


@jax.jit
def _gathered(cache: Cache, lane_B: jax.Array) -> Cache:
    """Returns a cache whose sequences are those of the lanes."""
    batch_dim = 0 if isinstance(cache.k_NBSK, tuple) else 1
    take = functools.partial(jnp.take, indices=lane_B, axis=batch_dim, mode="clip")
    k_NBSK, v_NBSK = jax.tree.map(take, (cache.k_NBSK, cache.v_NBSK))
    return Cache(k_NBSK, v_NBSK, cache.length[lane_B])


@functools.partial(jax.jit, static_argnames="model", donate_argnames="cache")
def _likeliest(
    model: nn.Module, variables: Any, cache: Cache, token_B: jax.Array
) -> tuple[Cache, jax.Array, jax.Array]:
    """Returns the cache with one more token of each sequence, and B ids likeliest to follow it."""
    x_BLD, cache = programs.extend(model, variables, token_B[:, None], cache)
    logits_BLV = model.apply(variables, x_BLD, method="unembed")
    log_p_BV = jax.nn.log_softmax(logits_BLV[:, 0].astype(jnp.float32))
    found = jax.lax.top_k(log_p_BV, min(log_p_BV.shape))
    # On every device: each process of a job reads them.
    return cache, *(constrain(a_BK, (None, None)) for a_BK in found)
