"""What a server offers: one model behind an engine, and the spelling of its tokens."""

import dataclasses
import functools
from collections.abc import Sequence

from palmscale.data.vocabulary import Vocabulary
from palmscale.infer.engine import Engine

# As text these stand for ids that no document's text encodes to.
BOS, EOD, PAD = "<s>", "</s>", "<pad>"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Served:
    """A model that is served.

    Attributes:
        engine: that the decode thread owns; others only read its sizes and counters.
        vocabulary: of its tokens.
        name: under which clients ask for it.
        num_tokens: ids below it may stand in a prompt.
        created: when it was loaded, in seconds since 1970.
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

        Bytes that are no character are spelled `<0x9C>`: as text, all of them would be alike.
        """
        return _spelling(self.vocabulary, self.num_tokens)


def _spelling(vocabulary: Vocabulary, size: int) -> list[str]:
    special = {vocabulary.pad_id: PAD, vocabulary.bos_id: BOS, vocabulary.eod_id: EOD}
    texts = [f"<token_{token_id}>" for token_id in range(max(size, vocabulary.size))]
    taken = set(special.values())
    # From the last: SentencePiece's bytes precede its pieces, and are spelled in hexadecimal where
    # a piece has the same text.
    for token_id, content in reversed(list(enumerate(vocabulary.token_bytes()))):
        if content is not None:
            texts[token_id] = _text(content, taken)
            taken.add(texts[token_id])
    for token_id, text in special.items():
        texts[token_id] = text
    return texts


def _text(content: bytes, taken: set[str]) -> str:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = ""
    return text if text and text not in taken else "".join(f"<0x{byte:02X}>" for byte in content)
