"""The answer to one sequence as it grows: text, log-probabilities, and where each token stands."""

import dataclasses
from collections.abc import Sequence

from palmscale.infer.request import Output, Token
from palmscale.infer.text import TextStream
from palmscale.serve.protocol import Asked
from palmscale.serve.served import Served


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenEntry:
    """A token in the answer.

    Attributes:
        text: its spelling.
        log_probability: natural; None: nothing precedes it.
        top: log-probabilities by spelling, of the likeliest tokens and itself; None: nothing
            precedes it.
        offset: characters of the answer's text before it.
    """

    text: str
    log_probability: float | None
    top: dict[str, float] | None
    offset: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
    """What an output adds to the answer.

    Attributes:
        text: that is final: no broken character, and nothing that may begin a stop string.
        entries: the tokens of that text; empty where nobody asks for log-probabilities.
        finish_reason: `stop` or `length` in the last piece.
    """

    text: str
    entries: Sequence[TokenEntry] = ()
    finish_reason: str | None = None


class Transcript:
    """Turns the outputs of one sequence into the pieces of its answer."""

    def __init__(self, served: Served, asked: Asked) -> None:
        self._served, self._asked = served, asked
        context = {"prompt": asked.text, "prompt_ids": asked.ids}
        self._stream = TextStream(served.vocabulary, **context, stop=asked.stop)
        # Without stop strings it holds back half characters only: it tells where tokens stand.
        self._ruler = TextStream(served.vocabulary, **context)
        self._prompt_due = asked.text if asked.echo else ""
        self._written = self._measured = len(self._prompt_due)
        self._held: list[tuple[int, TokenEntry]] = []  # where each ends, and the token
        self.drawn = self.reused_tokens = 0

    def add(self, output: Output) -> Piece:
        """Returns what an output adds; after the piece with a finish reason, nothing more comes."""
        self.reused_tokens = output.reused_tokens
        prompt = self._prompt_due
        entries = self._prompt_entries(output.prompt or ()) if prompt or output.prompt else []
        self._prompt_due = ""
        text = ""
        for token in output.tokens:
            self.drawn += 1
            if self._asked.log_probabilities:
                self._hold(token)
            text += self._stream.add([token.id])
            if self._stream.stopped:
                break
        reason = "stop" if self._stream.stopped else output.finished
        if reason is not None and not self._stream.stopped:
            text += self._stream.finish()
            reason = "stop" if self._stream.stopped else reason
        self._written += len(text)
        entries += self._released(reason)
        return Piece(text=prompt + text, entries=entries, finish_reason=reason)

    def _hold(self, token: Token) -> None:
        entry = self._entry(token, self._measured)
        self._measured += len(self._ruler.add([token.id]))
        self._held.append((self._measured, entry))

    def _released(self, reason: str | None) -> list[TokenEntry]:
        if self._stream.stopped:
            released = [entry for _, entry in self._held if entry.offset < self._written]
            self._held = []
        elif reason is not None:
            released, self._held = [entry for _, entry in self._held], []
        else:
            released = [entry for end, entry in self._held if end <= self._written]
            self._held = self._held[len(released) :]
        return released

    def _prompt_entries(self, scored: Sequence[Token]) -> list[TokenEntry]:
        """Returns the entries of the prompt's tokens as the client knows them: without our bos."""
        if not self._asked.echo or not self._asked.log_probabilities:
            return []
        known = list(self._asked.ids[self._asked.added_bos :])
        tokens = [Token(id=int(i)) for i in known[: len(known) - len(scored)]] + list(scored)
        ruler, offset, entries = TextStream(self._served.vocabulary), 0, []
        for token in tokens:
            entries.append(self._entry(token, min(offset, len(self._asked.text))))
            offset += len(ruler.add([token.id]))
        return entries

    def _entry(self, token: Token, offset: int) -> TokenEntry:
        spelling = self._served.spelling
        top = None
        if token.log_probability is not None:
            top = {spelling[token_id]: value for token_id, value in token.top}
            top.setdefault(spelling[token.id], token.log_probability)
        return TokenEntry(
            text=spelling[token.id],
            log_probability=token.log_probability,
            top=top,
            offset=offset,
        )
