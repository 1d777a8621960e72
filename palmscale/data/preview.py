"""Rows of a cache as text for a person, and statistics of their tokens."""

import dataclasses

import numpy as np

from palmscale.data.row_cache import Split
from palmscale.data.vocabulary import Vocabulary
from palmscale.observe.controls import escaped

_FREQUENT = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenStatistics:
    """Counts of the tokens in some rows.

    Attributes:
        rows: number of rows.
        tokens: number of tokens.
        distinct: number of different tokens.
        documents: number of documents that end in the rows.
        frequent: pairs (id, share of the tokens) of the most frequent tokens, in order.
    """

    rows: int
    tokens: int
    distinct: int
    documents: int
    frequent: tuple[tuple[int, float], ...]


def token_statistics(rows_RL: np.ndarray, vocabulary: Vocabulary) -> TokenStatistics:
    """Returns the statistics of rows [rows, sequence_length] of token ids."""
    ids, counts = np.unique(rows_RL, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_FREQUENT]
    return TokenStatistics(
        rows=len(rows_RL),
        tokens=rows_RL.size,
        distinct=len(ids),
        documents=int(counts[ids == vocabulary.eod_id].sum()),
        frequent=tuple((int(ids[i]), counts[i] / rows_RL.size) for i in order),
    )


def first_rows(split: Split, count: int) -> np.ndarray:
    """Returns the first `count` stored rows, or all if there are fewer, [rows, sequence_length]."""
    return split.read(np.arange(min(count, split.num_rows)))["target"]


def row_text(row_L: np.ndarray, vocabulary: Vocabulary) -> str:
    """Returns the text of a row, with a line `[eod]` at the end of each document.

    Control characters, which a terminal would interpret, appear as `\\x1b`.
    """
    documents = np.split(row_L, np.flatnonzero(row_L == vocabulary.eod_id) + 1)
    text = "\n[eod]\n".join(vocabulary.decode(ids[ids != vocabulary.eod_id]) for ids in documents)
    return escaped(text)


def token_text(token_id: int, vocabulary: Vocabulary) -> str:
    """Returns the text of a token as a Python literal, or `[eod]`."""
    return "[eod]" if token_id == vocabulary.eod_id else repr(vocabulary.decode([token_id]))
