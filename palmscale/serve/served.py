"""What a server offers: one model behind an engine, and the spelling of its tokens."""

import dataclasses
import functools
from collections.abc import Sequence

from palmscale.data.vocabulary import ByteVocabulary, SentencePieceVocabulary, Vocabulary
from palmscale.infer.engine import Engine

# As text these stand for ids that no document's text encodes to.
BOS, EOD, PAD = "<s>", "</s>", "<pad>"

_SPACE = "\u2581"
_ASCII = 0x80


@dataclasses.dataclass(frozen=True, kw_only=True)
class Served:
    """A model that is served.

    Attributes:
        engine: that the decode thread owns; others only read its counters.
        vocabulary: of its tokens.
        name: under which clients ask for it.
        num_tokens: ids below it may stand in a prompt.
        created: when it was saved, in seconds since 1970.
    """

    engine: Engine
    vocabulary: Vocabulary
    name: str
    num_tokens: int
    created: int = 0

    @property
    def slots(self) -> int:
        """Returns how many sequences are decoded together."""
        return self.engine.slots

    @property
    def context_length(self) -> int:
        """Returns the tokens of a prompt and its continuation, with bos, at most."""
        return self.engine.context_length

    @functools.cached_property
    def spelling(self) -> Sequence[str]:
        """Returns the text of each id by itself, different for every id.

        A byte that is no character is spelled `<0x9C>`: as text, all such bytes would be alike.
        """
        return _spelling(self.vocabulary, self.num_tokens)


def _spelling(vocabulary: Vocabulary, size: int) -> list[str]:
    texts = [f"<token_{token_id}>" for token_id in range(max(size, vocabulary.size))]
    if isinstance(vocabulary, SentencePieceVocabulary):
        for token_id, piece in enumerate(vocabulary.pieces()):
            texts[token_id] = piece.replace(_SPACE, " ")
    elif isinstance(vocabulary, ByteVocabulary):
        first = int(vocabulary.encode("\0")[0])
        for byte in range(256):
            texts[first + byte] = chr(byte) if byte < _ASCII else f"<0x{byte:02X}>"
    texts[vocabulary.pad_id] = PAD
    texts[vocabulary.bos_id] = BOS
    texts[vocabulary.eod_id] = EOD
    return texts
