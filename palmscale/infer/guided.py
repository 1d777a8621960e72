"""Text that is certain to match a JSON schema or a regular expression, by llguidance."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from palmscale.data.vocabulary import Vocabulary
from palmscale.errors import UserError
from palmscale.observe import log

_MOST_MESSAGE = 300  # characters of what llguidance says
# One space may follow a separator, as `json.dumps` writes it: a model that may put any number of
# them sometimes never stops. A schema's own `x-guidance` comes first.
_JSON_DEFAULTS = {
    "item_separator": ", ?",
    "key_separator": ": ?",
    "whitespace_flexible": False,
}


class Guides:
    """Makes guides for the tokens of a vocabulary, which it prepares once."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Prepares the tokens.

        Raises:
            UserError: llguidance is not installed.
        """
        try:
            import llguidance
        except ImportError:
            raise UserError(
                "the package llguidance is not installed, and guided output needs it; run: pip"
                " install 'palmscale[guided]'"
            ) from None
        self._llguidance = llguidance
        self._vocabulary = vocabulary
        self._tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Tokens(vocabulary)))

    def json_schema(self, schema: Mapping[str, Any] | str) -> "GrammarGuide":
        """Returns a guide of one sequence whose text is a JSON value of the schema.

        Objects have the properties in the schema's order. At most one space follows a comma or a
        colon, unless the schema's `x-guidance` says otherwise.

        Args:
            schema: JSON Schema, draft 2020-12, as a mapping or as JSON.

        Raises:
            UserError: it is not a JSON schema, or llguidance does not support a part of it.
        """
        try:
            schema = json.loads(schema) if isinstance(schema, str) else dict(schema)
        except (ValueError, RecursionError) as error:
            raise UserError(f"the JSON schema is not JSON: {error}; correct it.") from None
        if not isinstance(schema, dict):
            raise UserError(f"the JSON schema is {type(schema).__name__}; expected an object.")
        compile_schema = self._llguidance.LLMatcher.grammar_from_json_schema
        return self._guide("the JSON schema", compile_schema(schema, defaults=_JSON_DEFAULTS))

    def regex(self, pattern: str) -> "GrammarGuide":
        """Returns a guide of one sequence whose whole text matches a regular expression.

        Args:
            pattern: in the syntax of Rust's crate regex; `\\d` and `\\w` are those of Unicode.

        Raises:
            UserError: it is not a regular expression, or looks ahead or behind.
        """
        grammar = self._llguidance.LLMatcher.grammar_from_regex(pattern)
        return self._guide("the regular expression", grammar)

    def _guide(self, what: str, grammar: str) -> "GrammarGuide":
        limits = self._llguidance.LLParserLimits(verbose_errors=False)
        matcher = self._llguidance.LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)
        if matcher.is_error():
            raise UserError(
                f"{what} cannot guide the output: {_one_line(matcher.get_error())}; change it."
            )
        return GrammarGuide(matcher, size=self._vocabulary.size)


class GrammarGuide:
    """Allows what continues a text of a grammar; the end of document only where it is complete."""

    def __init__(self, matcher: Any, *, size: int) -> None:
        """Begins at the grammar's start, which `Guides` compiled."""
        self._matcher = matcher
        self._size = size

    def allowed(self) -> np.ndarray:
        """Returns which ids may come next, bool [V]; at least one.

        If the grammar grows past llguidance's limits, a warning says so and the text ends.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        return np.unpackbits(bits, count=self._size, bitorder="little").astype(bool)

    def accept(self, token_id: int) -> None:
        """Moves on by a token that was drawn."""
        if self._matcher.is_stopped():  # nothing but the end of document was allowed
            return
        if not self._matcher.consume_token(token_id):
            log.warn(f"Guided output ends early: {_one_line(self._matcher.get_error())}")


class _Tokens:
    """A vocabulary as llguidance asks for it."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        token_bytes = vocabulary.token_bytes()
        self.tokens = [
            f"<{token_id}>".encode() if of_token is None else of_token
            for token_id, of_token in enumerate(token_bytes)
        ]
        self.special_token_ids = [n for n, of_token in enumerate(token_bytes) if of_token is None]
        self.eos_token_id, self.bos_token_id = vocabulary.eod_id, None
        self._encode = vocabulary.encode

    def __call__(self, text: str) -> list[int]:
        return self._encode(text).tolist()


def _one_line(message: str) -> str:
    return " ".join(message.split())[:_MOST_MESSAGE]
