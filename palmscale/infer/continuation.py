"""Prompts in, text out: what is asked of an engine as text, and the text as it grows."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from palmscale.data.vocabulary import Vocabulary
from palmscale.errors import UserError
from palmscale.infer.engine import Engine
from palmscale.infer.guided import Guides
from palmscale.infer.request import Finished, Guide, Request, Token, sample_seed
from palmscale.infer.sampling import Sampling
from palmscale.infer.text import TextStream, encode_prompt

_LEAST_CONTEXT = 128
_MOST_TOP = 100

# Preparing a vocabulary takes seconds, and all requests share it.
_guides = functools.lru_cache(maxsize=1)(Guides)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextRequest:
    """A prompt, and how to continue it.

    Attributes:
        prompt: the text to continue.
        max_tokens: tokens to write at most.
        temperature: divides the logits; 0 always takes the likeliest token.
        top_k: see `Sampling`, as for the fields below.
        top_p: of the probability, (0, 1].
        min_p: of the likeliest token's probability, [0, 1].
        repetition_penalty: 1 is no penalty.
        presence_penalty: -2 to 2.
        frequency_penalty: -2 to 2.
        logit_bias: what is added to the logit of each of these token ids, -100 to 100.
        seed: any integer of 64 bits. The same seed writes the same text.
        stop: strings that end the text; they are not part of it.
        min_tokens: tokens to write before the text may end by itself.
        ignore_eos: whether the text goes on after the end of the document.
        top_logprobs: the likeliest tokens to return with each token; None: no log-probabilities.
        json_schema: of which the text is a JSON value; None: of any form. See `Guides`.
        regex: a regular expression that the whole text matches; None: of any form.

    Raises:
        UserError: a value is out of range.
    """

    prompt: str = ""
    max_tokens: int = 256
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = dataclasses.field(default_factory=dict)
    seed: int = 0
    stop: Sequence[str] = ()
    min_tokens: int = 0
    ignore_eos: bool = False
    top_logprobs: int | None = None
    json_schema: Mapping[str, Any] | None = None
    regex: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        if self.max_tokens < 1:
            raise UserError(f"max_tokens={self.max_tokens} must be at least 1.")
        if self.min_tokens < 0:
            raise UserError(f"min_tokens={self.min_tokens} must be 0 or more.")
        if self.top_logprobs is not None and not 0 <= self.top_logprobs <= _MOST_TOP:
            raise UserError(f"top_logprobs={self.top_logprobs} must be 0 to {_MOST_TOP}.")
        if "" in self.stop:
            raise UserError("stop has an empty string; remove it, or give it a character.")
        if self.json_schema is not None and self.regex is not None:
            raise UserError("json_schema and regex exclude one another; leave one out.")
        self._request(np.zeros(1, np.int32), frozenset())

    def encoded(self, vocabulary: Vocabulary) -> Request:
        """Returns the request as token ids.

        Raises:
            UserError: the prompt is not text, or a form that the text is to have is not supported.
        """
        ends = frozenset() if self.ignore_eos else frozenset([vocabulary.eod_id])
        request = self._request(encode_prompt(vocabulary, self.prompt), ends)
        return dataclasses.replace(request, guide=self._guide(vocabulary))

    def _guide(self, vocabulary: Vocabulary) -> Guide | None:
        if self.json_schema is not None:
            return _guides(vocabulary).json_schema(self.json_schema)
        return None if self.regex is None else _guides(vocabulary).regex(self.regex)

    def sampled(self, num_samples: int) -> list["TextRequest"]:
        """Returns the requests of several texts, each with its seed; the first has this one."""
        seeds = (sample_seed(self.seed, number) for number in range(num_samples))
        return [dataclasses.replace(self, seed=seed) for seed in seeds]

    def _request(self, prompt_ids: np.ndarray, ends: frozenset[int]) -> Request:
        shared = [field.name for field in dataclasses.fields(Sampling)]
        sampling = {name: getattr(self, name) for name in shared}
        return Request(
            prompt=prompt_ids,
            max_tokens=self.max_tokens,
            sampling=Sampling(**sampling | {"logit_bias": tuple(self.logit_bias.items())}),
            seed=self.seed,
            stop_ids=ends,
            min_tokens=self.min_tokens,
            top_log_probabilities=self.top_logprobs,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
    """What is new in a text.

    Attributes:
        text: that is final since the last piece; no character is broken, and no stop string begun.
        tokens: drawn since the last piece, up to the one that ends the text.
        finish_reason: `stop` at the end of the document or a stop string, `length` after
            `max_tokens`; None: the text goes on.
    """

    text: str
    tokens: Sequence[Token] = ()
    finish_reason: Finished | None = None


class _Text:
    """A text that is being written."""

    def __init__(self, number: int, request: TextRequest, ids: Request, vocabulary: Vocabulary):
        self.number, self._eod_id = number, vocabulary.eod_id
        self._stream = TextStream(
            vocabulary, prompt=request.prompt, prompt_ids=ids.prompt, stop=tuple(request.stop)
        )

    def piece(self, tokens: Sequence[Token], finished: Finished | None) -> Piece:
        """Returns what these tokens add."""
        text = ""
        for count, token in enumerate(tokens, start=1):
            if token.id == self._eod_id:
                continue
            text += self._stream.add([token.id])
            if self._stream.stopped:
                return Piece(text=text, tokens=tokens[:count], finish_reason="stop")
        if finished:
            text += self._stream.finish()
            finished = "stop" if self._stream.stopped else finished
        return Piece(text=text, tokens=tokens, finish_reason=finished)


def continued(
    engine: Engine, vocabulary: Vocabulary, requests: Iterable[TextRequest]
) -> Iterator[tuple[int, Piece]]:
    """Yields (the request's number, a piece of its text) until all texts are finished.

    Requests are taken as slots become free. Those under way are cancelled if this is closed.

    Raises:
        UserError: a request does not fit the engine; see `Engine.check`.
    """
    source = enumerate(requests)
    under_way: dict[int, _Text] = {}
    try:
        while True:
            while engine.queued < engine.slots and (taken := next(source, None)):
                ids = taken[1].encoded(vocabulary)
                under_way[engine.submit(ids)] = _Text(*taken, ids, vocabulary)
            if not under_way:
                return
            for output in engine.step():
                if (text := under_way.get(output.request_id)) is None:
                    continue  # a stop string has ended it
                piece = text.piece(output.tokens, output.finished)
                if piece.finish_reason:
                    del under_way[output.request_id]
                    engine.cancel(output.request_id)
                yield text.number, piece
    finally:
        for request_id in under_way:
            engine.cancel(request_id)


def text_of(token_ids: Sequence[int], request: TextRequest, vocabulary: Vocabulary) -> str:
    """Returns the text of all tokens that continue a request's prompt."""
    text = _Text(0, request, request.encoded(vocabulary), vocabulary)
    return text.piece([Token(id=token_id) for token_id in token_ids], "length").text


def context_length_of(requests: Iterable[Request]) -> int:
    """Returns the context length that these requests need, which many share: a power of two."""
    most = max((len(r.prompt) + r.max_tokens for r in requests), default=1)
    return max(_LEAST_CONTEXT, 1 << (most - 1).bit_length())
