"""Foresees tokens by looking up the last ones earlier in the same text (prompt lookup).

Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding. It needs no second model.
"""

import itertools
from collections.abc import Sequence

_LONGEST, _SHORTEST = 4, 2  # tokens that must have occurred before


def foreseen(tokens: Sequence[int], count: int) -> list[int]:
    """Returns `count` tokens that followed the last occurrence of the text's last tokens.

    The longest match counts; without one there is nothing to foresee. Where the text ends sooner,
    it repeats itself, and is foreseen to go on like that.
    """
    for length in range(min(_LONGEST, len(tokens) - 1), _SHORTEST - 1, -1):
        tail = tokens[-length:]
        for start in range(len(tokens) - length - 1, -1, -1):
            if tokens[start : start + length] == tail:
                after = tokens[start + length : start + length + count]
                return list(itertools.islice(itertools.cycle(after), count))
    return []
