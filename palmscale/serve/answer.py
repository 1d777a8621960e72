"""The JSON of an answer to a completion request, whole or as a stream of events."""

import dataclasses
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from palmscale.errors import UserError
from palmscale.serve.body import CompletionBody, StreamOptions
from palmscale.serve.dispatcher import Opened
from palmscale.serve.protocol import Asked
from palmscale.serve.refusal import Refusal, from_error
from palmscale.serve.served import Served
from palmscale.serve.transcript import Piece, TokenEntry, Transcript

_DONE = b"data: [DONE]\n\n"


@dataclasses.dataclass
class Tally:
    """What is known of an answer while it is given: for `usage`, and for the log."""

    id: str = dataclasses.field(default_factory=lambda: f"cmpl-{secrets.token_hex(12)}")
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reused_tokens: int = 0
    finish_reasons: dict[int, str] = dataclasses.field(default_factory=dict)

    def usage(self) -> dict[str, Any]:
        """Returns OpenAI's `usage`."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.reused_tokens},
        }


class Answer:
    """The answer to one completion request.

    Args:
        body: of the request.
        asked: its sequences.
        served: what answers.
    """

    def __init__(self, body: CompletionBody, asked: Sequence[Asked], served: Served) -> None:
        self._body, self._served = body, served
        self._created = int(time.time())
        self._transcripts = [Transcript(served, one) for one in asked]
        prompts = asked[:: body.n or 1]  # each counts once, however many samples are drawn
        self.tally = Tally(prompt_tokens=sum(one.prompt_tokens for one in prompts))

    async def whole(self, opened: Opened) -> dict[str, Any]:
        """Returns the answer in one piece.

        Raises:
            Refusal, UserError: a sequence cannot be had.
        """
        texts = [""] * len(self._transcripts)
        entries: list[list[TokenEntry]] = [[] for _ in self._transcripts]
        async for index, piece in self._pieces(opened):
            texts[index] += piece.text
            entries[index] += piece.entries
        choices = [
            self._choice(index, texts[index], entries[index], self.tally.finish_reasons[index])
            for index in range(len(texts))
        ]
        return self._envelope(choices) | {"usage": self.tally.usage()}

    async def events(self, opened: Opened) -> AsyncIterator[bytes]:
        """Yields the answer as server-sent events; an error is the last of them."""
        options = self._body.stream_options or StreamOptions()
        with_usage = bool(options.include_usage)
        try:
            async for index, piece in self._pieces(opened):
                if piece.text or piece.entries or piece.finish_reason:
                    choice = self._choice(index, piece.text, piece.entries, piece.finish_reason)
                    chunk = self._envelope([choice])
                    if with_usage:
                        so_far = self.tally.usage() if options.continuous_usage_stats else None
                        chunk["usage"] = so_far
                    yield _event(chunk)
            if with_usage:
                yield _event(self._envelope([]) | {"usage": self.tally.usage()})
        except Exception as error:  # the status is sent; the client must still hear of it
            yield _event(from_error(error).body())
            if isinstance(error, Refusal | UserError):
                return
            raise
        yield _DONE

    async def _pieces(self, opened: Opened) -> AsyncIterator[tuple[int, Piece]]:
        async for index, output in opened:
            transcript = self._transcripts[index]
            before = transcript.drawn
            piece = transcript.add(output)
            self.tally.completion_tokens += transcript.drawn - before
            self.tally.reused_tokens = sum(one.reused_tokens for one in self._transcripts)
            if piece.finish_reason is not None:
                self.tally.finish_reasons[index] = piece.finish_reason
                opened.cancel(index)  # a stop string ends what the engine would go on with
            yield index, piece

    def _envelope(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.tally.id,
            "object": "text_completion",
            "created": self._created,
            "model": self._served.name,
            "choices": choices,
        }

    def _choice(
        self, index: int, text: str, entries: Sequence[TokenEntry], finish_reason: str | None
    ) -> dict[str, Any]:
        asks = self._body.logprobs is not None and self._body.logprobs is not False
        return {
            "index": index,
            "text": text,
            "logprobs": _log_probabilities(entries) if asks else None,
            "finish_reason": finish_reason,
        }


def _log_probabilities(entries: Sequence[TokenEntry]) -> dict[str, Any]:
    return {
        "tokens": [entry.text for entry in entries],
        "token_logprobs": [entry.log_probability for entry in entries],
        "top_logprobs": [entry.top for entry in entries],
        "text_offset": [entry.offset for entry in entries],
    }


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content, ensure_ascii=False).encode() + b"\n\n"
