"""Rows of a cache as text for a person, and statistics of their tokens."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

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


class Row(NamedTuple):
    """A row without its padding: token ids [n], and the weights of their losses [n]."""

    ids: np.ndarray
    weights: np.ndarray


def token_statistics(rows: Sequence[np.ndarray], vocabulary: Vocabulary) -> TokenStatistics:
    """Returns the statistics of the token ids [n] of rows."""
    tokens = sum(map(len, rows))
    ids, counts = np.unique(np.concatenate(rows), return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_FREQUENT]
    return TokenStatistics(
        rows=len(rows),
        tokens=tokens,
        distinct=len(ids),
        documents=int(counts[ids == vocabulary.eod_id].sum()),
        frequent=tuple((int(ids[i]), counts[i] / tokens) for i in order),
    )


def first_rows(split: Split, count: int) -> list[Row]:
    """Returns the first `count` stored rows, or all if there are fewer."""
    return rows_of(split.read(np.arange(min(count, split.num_rows))))


def rows_of(fields: Mapping[str, np.ndarray]) -> list[Row]:
    """Returns the rows of a split's or mixture's `read`, [rows, sequence_length] by field."""
    ids_RL = fields["target"]
    weights_RL = fields.get("weight", np.ones(ids_RL.shape))
    is_token_RL = fields.get("segment", np.ones(ids_RL.shape)) > 0
    return [
        Row(ids_L[is_token_L], weights_L[is_token_L])
        for ids_L, weights_L, is_token_L in zip(ids_RL, weights_RL, is_token_RL)
    ]


def row_text(row: Row, vocabulary: Vocabulary) -> str:
    """Returns the text of a row, with a line `[eod]` at the end of each document.

    A line `[completion]` follows each prompt. Control characters, which a terminal would interpret,
    appear as `\\x1b`.
    """
    ends = np.flatnonzero(row.ids == vocabulary.eod_id) + 1
    starts_loss = np.flatnonzero(np.diff(row.weights, prepend=1) > 0)
    lines = []
    for part in np.split(np.arange(len(row.ids)), np.union1d(ends, starts_loss)):
        ids = row.ids[part]
        lines.append(vocabulary.decode(ids[ids != vocabulary.eod_id]))
        if len(part) and part[-1] + 1 in starts_loss:
            lines.append("[completion]")
        elif len(ids) and ids[-1] == vocabulary.eod_id:
            lines.append("[eod]")
    return escaped("\n".join(lines))


def token_text(token_id: int, vocabulary: Vocabulary) -> str:
    """Returns the text of a token as a Python literal, or `[eod]`."""
    return "[eod]" if token_id == vocabulary.eod_id else repr(vocabulary.decode([token_id]))
