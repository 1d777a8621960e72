"""What a server offers: one model behind an engine, and the spelling of its tokens."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from palmscale.data.vocabulary import ByteVocabulary, SentencePieceVocabulary, Vocabulary

if TYPE_CHECKING:
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
        slots: sequences that are decoded together.
        context_length: tokens of a prompt and its continuation, with bos.
        created: when it was saved, in seconds since 1970.
    """

    engine: "Engine"
    vocabulary: Vocabulary
    name: str
    num_tokens: int
    slots: int
    context_length: int
    created: int = 0

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
