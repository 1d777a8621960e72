"""Where a long text may be cut, so that SentencePiece encodes the parts as it encodes the whole.

SentencePiece takes 30 to 45 bytes of memory per character of a text. No merge (BPE) and no piece
(unigram) crosses a place that no piece of the vocabulary spans in this text, so the parts on both
sides are encoded independently of each other.
"""

import re
from collections.abc import Iterable, Iterator

SPACE = "\u2581"  # stands for a space in SentencePiece
PART_CHARACTERS = 1 << 21
_SEARCHED = 4096  # places, before a text is cut at a place that some piece spans
_BETWEEN_WORDS = re.compile("(?<=[a-z0-9]) (?=[a-z0-9])")  # what no normalization changes


class Cuts:
    """Cuts long texts for a model with the given pieces.

    Args:
        pieces: of the vocabulary.
        begins_with_space: whether the model puts a space before each text. Then a text is cut at a
            single space, which the next part gets from the model.
    """

    def __init__(self, pieces: Iterable[str], *, begins_with_space: bool):
        self._pieces = frozenset(piece for piece in pieces if len(piece) > 1)
        self._longest = max(map(len, self._pieces), default=1)
        self._begins_with_space = begins_with_space

    def parts(self, text: str) -> Iterator[str]:
        """Yields parts of little more than PART_CHARACTERS.

        A text in which every place is spanned by some piece, such as one letter millions of times,
        is cut all the same. A model that begins with a space gets the rest of a text without words
        as a whole.
        """
        find = self._find_space if self._begins_with_space else self._find
        start = 0
        while len(text) - start > PART_CHARACTERS:
            end, following = find(text, start + PART_CHARACTERS)
            yield text[start:end]
            start = following
        yield text[start:]

    def spans(self, text: str, place: int) -> bool:
        """Returns whether a piece occurs in the text from before to after `place`."""
        first = max(0, place - self._longest + 1)
        window = text[first : place + self._longest - 1].replace(" ", SPACE)
        place -= first
        return any(
            window[begin:end] in self._pieces
            for begin in range(place)
            for end in range(place + 1, min(begin + self._longest, len(window)) + 1)
        )

    def _find(self, text: str, near: int) -> tuple[int, int]:
        """Returns where a part ends, and where the next one starts."""
        last = min(near + _SEARCHED, len(text))
        free = (place for place in range(near, last) if not self.spans(text, place))
        place = next(free, near if last < len(text) else last)
        return place, place

    def _find_space(self, text: str, near: int) -> tuple[int, int]:
        for found in _BETWEEN_WORDS.finditer(text, near):
            if not self.spans(text, found.start()):
                return found.span()
        return len(text), len(text)
