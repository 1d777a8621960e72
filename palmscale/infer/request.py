"""What is asked of an engine, and what it answers: token ids, without text or HTTP."""

import dataclasses
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from palmscale.errors import UserError
from palmscale.infer.sampling import Sampling

Finished = Literal["stop", "length"]


class Guide(Protocol):
    """Restricts what is drawn next, as a grammar does; it follows one request."""

    def allowed(self) -> np.ndarray:
        """Returns which ids may come next, bool [V]."""

    def accept(self, token_id: int) -> None:
        """Moves on by a token that was drawn."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """One sequence to continue, or to score.

    Attributes:
        prompt: int32 [L], L at least 1: begin with the bos id.
        max_tokens: tokens to draw at most; 0 only scores the prompt.
        sampling: how tokens are drawn.
        seed: any integer of 64 bits. Random numbers are a function of it and of the position alone.
        stop_ids: ids that end the sequence, and that are returned as its last token.
        min_tokens: tokens before which no stop id is drawn.
        top_log_probabilities: the likeliest ids to return with each token; None: return no
            log-probability at all.
        score_from: the first position of the prompt, at least 1, whose log-probability is returned;
            None: of none.
        guide: restricts what is drawn.
    """

    prompt: np.ndarray
    max_tokens: int
    sampling: Sampling = Sampling()
    seed: int = 0
    stop_ids: frozenset[int] = frozenset()
    min_tokens: int = 0
    top_log_probabilities: int | None = None
    score_from: int | None = None
    guide: Guide | None = None

    def __post_init__(self) -> None:
        if len(self.prompt) < 1:
            raise UserError("the prompt has no token; begin it with the vocabulary's bos id.")
        if self.max_tokens < 0:
            raise UserError(f"max_tokens={self.max_tokens} must be 0 or more.")
        if not -(2**63) <= self.seed < 2**64:
            raise UserError(f"seed={self.seed} must be an integer of 64 bits.")
        if self.score_from is not None and self.score_from < 1:
            raise UserError(f"score_from={self.score_from} must be at least 1: nothing precedes 0.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Token:
    """A token of a prompt or of its continuation.

    Attributes:
        id: of the token.
        log_probability: natural, of the model's own distribution, before temperature, penalties and
            bias; None: not asked for.
        top: the likeliest ids with their log-probabilities, descending.
    """

    id: int
    log_probability: float | None = None
    top: Sequence[tuple[int, float]] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Output:
    """What an engine has to say of one request after a step.

    Attributes:
        request_id: of `Engine.submit`.
        tokens: that were drawn since the last output.
        prompt: the prompt's tokens from `score_from`, once, in the request's first output.
        finished: why the request is done; None: it is not. Nothing follows.
        reused_tokens: of the prompt, taken from the cache instead of computed.
    """

    request_id: int
    tokens: Sequence[Token] = ()
    prompt: Sequence[Token] | None = None
    finished: Finished | None = None
    reused_tokens: int = 0


def sample_seed(seed: int, number: int) -> int:
    """Returns the seed of one of several samples of a prompt; sample 0 has the seed itself.

    The number is in the upper 32 bits, so samples of other seeds of 32 bits are others.
    """
    return (seed ^ (number << 32)) % 2**64
