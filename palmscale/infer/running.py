"""A request under way: what has been drawn for it, and when it is over."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from palmscale.infer.request import Finished, Output, Request, Token


@dataclasses.dataclass(eq=False)
class Running:
    """A request under way.

    Attributes:
        id: of the request.
        request: what was asked.
        reused_tokens: of the prompt, that were not computed.
        scores: of the prompt, as `Staging.advance` gives them.
        asked_tokens: of the devices, which may still compute the last.
        tokens: that were drawn.
        is_over: whether nothing more is to be told.
    """

    id: int
    request: Request
    reused_tokens: int = 0
    scores: list[Any] = dataclasses.field(default_factory=list)
    asked_tokens: int = 0
    tokens: list[int] = dataclasses.field(default_factory=list)
    is_over: bool = False

    @property
    def withheld(self) -> frozenset[int]:
        """Ids that may not be drawn next."""
        early = self.asked_tokens < self.request.min_tokens
        return self.request.stop_ids if early else frozenset()

    @property
    def is_plain(self) -> bool:
        """Whether it takes the likeliest tokens of the model itself, and no numbers of them."""
        request, sampling = self.request, self.request.sampling
        return (
            sampling.temperature == 0
            and not sampling.penalizes
            and not sampling.logit_bias
            and request.guide is None
            and request.min_tokens == 0
            and request.top_log_probabilities is None
        )

    @property
    def wants_tokens(self) -> bool:
        """Whether the devices have not been asked for all of its tokens."""
        return self.asked_tokens < self.request.max_tokens

    def last_token(self) -> int:
        """Returns the last token of the text so far."""
        return self.tokens[-1] if self.tokens else int(self.request.prompt[-1])

    def tell(self, tokens: Sequence[Token]) -> Output:
        """Takes tokens that were drawn, up to one that ends it, and returns what to say of them."""
        request, finished, told = self.request, None, []
        for token in tokens:
            self.tokens.append(token.id)
            told.append(token)
            finished = self._finished(token.id)
            if finished:
                break
            if request.guide is not None:
                request.guide.accept(token.id)
        self.is_over = finished is not None
        return self.output(tokens=told, finished=finished)

    def output(self, **said: Any) -> Output:
        """Returns an output of this request."""
        return Output(request_id=self.id, reused_tokens=self.reused_tokens, **said)

    def _finished(self, token_id: int) -> Finished | None:
        if token_id in self.request.stop_ids:
            return "stop"
        return "length" if len(self.tokens) == self.request.max_tokens else None
