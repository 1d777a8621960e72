"""The prompt that an engine computes: chunk by chunk, after what a cache already holds of it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from palmscale.infer import programs
from palmscale.infer.cache import empty_cache
from palmscale.infer.partition import entered
from palmscale.infer.request import Request, Token
from palmscale.model import interface
from palmscale.model.attention import Cache
from palmscale.partition.layout import DeviceLayout

_LEAST_CHUNK = 8  # a chunk has a power of two of tokens: one program for each
_LEAST_COPIED = 16  # tokens; fewer are computed sooner than a slot is copied


class Staging:
    """A cache of one sequence with the beginning of a prompt.

    All of a prompt but its last token is computed here: that is the input of the first step.

    Args:
        model: offers `extend` and `unembed`.
        variables: of the model.
        positions: tokens that fit.
        chunk: tokens that are computed at once, at most; taken down to a power of two.
        apart: whether each layer's cache is an array of its own.
        layout: of one sequence; None: on one device.
    """

    def __init__(
        self,
        model: nn.Module,
        variables: Any,
        positions: int,
        *,
        chunk: int,
        apart: bool,
        layout: DeviceLayout | None = None,
    ) -> None:
        self.chunk = 1 << min(chunk, positions).bit_length() - 1
        self._model, self._variables, self._positions = model, variables, positions
        self._layout = layout
        spec = interface.cache_spec(model)
        empty = lambda: empty_cache(spec, batch=1, positions=positions, apart=apart, staging=True)  # noqa: E731
        with entered(layout):
            self.cache: Cache = jax.jit(empty)()
            self._size = programs.logits_size(model, variables)
        self._tokens: list[int] = []  # whose keys and values the cache begins with

    def common(self, request: Request, cached: Sequence[int]) -> int:
        """Returns how many tokens of `cached` a prompt can take: those that it begins with.

        Not its last token, nor one whose logits score a token.
        """
        most = len(request.prompt) - 1
        if request.score_from is not None:
            most = min(most, request.score_from - 1)
        most = min(most, len(cached))
        differs = np.asarray(request.prompt)[:most] != np.asarray(cached[:most], np.int64)
        return int(differs.argmax()) if differs.any() else most

    def begin(
        self, request: Request, cached: Sequence[int], copy: Callable[[], Cache] | None
    ) -> int:
        """Begins a prompt, and returns how many of its tokens need not be computed.

        Args:
            request: whose prompt it is.
            cached: tokens that another cache begins with.
            copy: returns that cache; None: reuse nothing.
        """
        if copy is None:
            self._tokens = []
            return 0
        here, there = self.common(request, self._tokens), self.common(request, cached)
        if there >= here + _LEAST_COPIED:
            self.cache, here = copy(), there
        self._tokens = np.asarray(request.prompt)[:here].tolist()
        return here

    def is_done(self, request: Request) -> bool:
        """Returns whether all of the prompt but its last token is in the cache."""
        return len(self._tokens) == len(request.prompt) - 1

    def advance(self, request: Request, scores: list[Any]) -> int:
        """Computes the next chunk of a prompt and returns its tokens, with padding.

        Args:
            request: whose prompt it is.
            scores: receives (the first position that is scored, how many, their arrays).
        """
        prompt, start = np.asarray(request.prompt, np.int32), len(self._tokens)
        rest = len(prompt) - 1 - start
        if not rest:
            return 0
        size = min(self.chunk, max(_LEAST_CHUNK, 1 << (rest - 1).bit_length()))
        while size > self._positions - start:
            size //= 2
        here = min(rest, size)
        chunk_L = np.zeros(size, np.int32)
        chunk_L[:here] = prompt[start : start + here]
        targets_L = None
        if request.score_from is not None and start + here >= request.score_from:
            targets_L = np.zeros(size, np.int32)
            targets_L[:here] = prompt[start + 1 : start + here + 1]
        with entered(self._layout):
            self.cache, scored = programs.prefill(
                self._model,
                self._variables,
                self.cache.replace(length=np.array([start], np.int32)),
                chunk_L[None],
                targets_L,
                top=programs.returned_top(request.top_log_probabilities or 0, self._size),
            )
        if scored is not None:
            scores.append((start + 1, here, scored))
        self._tokens.extend(chunk_L[:here].tolist())
        return size

    @staticmethod
    def scored(request: Request, scores: Sequence[Any]) -> list[Token] | None:
        """Returns the prompt's tokens from `score_from`; None if it asks for none."""
        if request.score_from is None:
            return None
        tokens = []
        for first, count, arrays in scores:
            log_p_L, top_ids_LK, top_log_p_LK = jax.device_get(arrays)
            for n in range(max(0, request.score_from - first), count):
                wanted = request.top_log_probabilities or 0
                ids_K, log_p_K = top_ids_LK[n, :wanted], top_log_p_LK[n, :wanted]
                tokens.append(
                    Token(
                        id=int(request.prompt[first + n]),
                        log_probability=float(log_p_L[n]),
                        top=list(zip(ids_K.tolist(), log_p_K.tolist(), strict=True)),
                    )
                )
        return tokens
