"""A position in the data is a number: steps map to row numbers, and these to stored rows.

Row *numbers* 0, 1, 2 ... count the rows that the run consumes, without end. Number r is in epoch
r // num_rows, and a permutation keyed by (seed, epoch) maps it to a stored row, whichever host
reads it.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Protocol, TypedDict

import jax
import numpy as np
from flax import struct

from palmscale.data.permutation import permute
from palmscale.errors import CorruptionError, UserError
from palmscale.storage.typed_json import checked

# Permuted together: a block of this size takes a few milliseconds, like one of a hundred rows.
_ORDERED_ROWS = 4096


@struct.dataclass
class Batch:
    """The arrays of a batch, each [batch_sequences, sequence_length], or None.

    The train step derives the inputs: the targets shifted right by one, with bos first.
    """

    target_BL: jax.Array  # int32
    segment_BL: jax.Array | None = None  # int32; tokens attend only to tokens of equal number
    position_BL: jax.Array | None = None  # int32
    weight_BL: jax.Array | None = None  # float32; None: 1 everywhere


@dataclass(frozen=True)
class BatchSchedule:
    """The number of sequences that each step consumes.

    Attributes:
        stages: pairs (first step, batch sequences), of which the first has step 0. PaLM 540B used
            ((0, 512), (50_000, 1024), (115_000, 2048)) (arXiv:2204.02311, section 5).

    Raises:
        UserError: the stages are invalid.
    """

    stages: tuple[tuple[int, int], ...] = ((0, 16),)

    def __post_init__(self):
        try:
            stages = tuple((_whole(step), _whole(sequences)) for step, sequences in self.stages)
        except (TypeError, ValueError):
            stages = ()
        steps = [step for step, _ in stages]
        if not stages or steps[0] != 0 or any(a >= b for a, b in zip(steps, steps[1:])):
            raise UserError(
                f"BatchSchedule.stages={self.stages!r} is invalid; expected pairs (first step,"
                " batch sequences) of whole numbers with steps that start at 0 and increase, for"
                " example ((0, 512), (50_000, 1024))."
            )
        if any(sequences < 1 for _, sequences in stages):
            raise UserError(
                f"BatchSchedule.stages={self.stages!r} contains a batch without sequences; make the"
                " second number of each pair positive."
            )
        object.__setattr__(self, "stages", stages)

    def sequences(self, step: int) -> int:
        """Returns the number of sequences in the batch of `step`."""
        return next(sequences for first, sequences in reversed(self.stages) if first <= step)

    def rows_before(self, step: int) -> int:
        """Returns the number of rows that the steps before `step` consume."""
        ends = [first for first, _ in self.stages[1:]] + [step]
        return sum(
            sequences * max(0, min(end, step) - first)
            for (first, sequences), end in zip(self.stages, ends)
        )


_Row = Annotated[int, (0, 2**62)]  # that a batch after it still has numbers of 64 bits


class _StoredCursor(TypedDict):
    step: _Row
    next_row: _Row
    skips: list[tuple[_Row, _Row]]


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """A run's position in its data, independent of hosts, mesh and prefetching.

    Attributes:
        step: the next step.
        next_row: the first row number that it may consume.
        skips: half-open ranges of row numbers to skip, in order, neither overlapping nor adjacent.
    """

    step: int = 0
    next_row: int = 0
    skips: tuple[tuple[int, int], ...] = ()

    def __post_init__(self):
        edges = [edge for skip in self.skips for edge in skip]
        if any(a >= b for a, b in zip(edges, edges[1:])):
            raise ValueError(f"skips={self.skips} are not increasing, separate ranges")

    def to_json(self) -> dict[str, Any]:
        """Returns the cursor as lists and numbers."""
        return {
            "step": self.step,
            "next_row": self.next_row,
            "skips": [list(s) for s in self.skips],
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Cursor":
        """Returns the cursor that `to_json` stored.

        Raises:
            CorruptionError: it is not one.
        """
        stored = checked(stored, _StoredCursor, "the cursor of the checkpoint")
        skips = tuple((start, stop) for start, stop in stored["skips"])
        try:
            return cls(step=stored["step"], next_row=stored["next_row"], skips=skips)
        except ValueError as error:
            raise CorruptionError(
                f"the cursor of the checkpoint is damaged: {error}; use an intact copy."
            ) from None


class Rows(Protocol):
    """Stored rows, such as a split of a RowCache."""

    num_rows: int
    sequence_length: int

    def read(self, row_indices: np.ndarray) -> dict[str, np.ndarray]:
        """Returns [n, sequence_length] by field of a Batch, in the requested order."""


class NumberedRows(Protocol):
    """Rows by their number: those of one split, shuffled, or of several, mixed by weight."""

    sequence_length: int

    def read(self, row_numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Returns [n, sequence_length] by field of a Batch, in the requested order."""

    def epochs(self, row_number: int) -> dict[str, float]:
        """Returns the epochs of each split, by name, that the rows before `row_number` make up."""


class Shuffled:
    """A split's rows without end: each stored row once per epoch, in a new order every epoch.

    Args:
        split: the stored rows.
        seed: of the orders.
        name: of the mixture's component; every component has different orders.

    Raises:
        UserError: the split has no rows.
    """

    def __init__(self, split: Rows, *, seed: int, name: str = ""):
        if split.num_rows < 1:
            raise UserError(
                f"the training split {f'of {name} ' if name else ''}has no rows; add text, or"
                " decrease Data.sequence_length."
            )
        self.sequence_length = split.sequence_length
        self._split, self._name = split, name
        self._key = f"rows:{seed}:{name}:" if name else f"rows:{seed}:"
        # Two: a batch may span two blocks.
        self._ordered = functools.lru_cache(maxsize=2)(self._order)

    def read(self, row_numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the rows [n, sequence_length] by field of a Batch, in the requested order."""
        return self._split.read(self.indices(row_numbers))

    def indices(self, row_numbers: np.ndarray) -> np.ndarray:
        """Returns the stored row of each row number."""
        epochs, index = np.divmod(np.asarray(row_numbers, dtype=np.int64), self._split.num_rows)
        stored = np.empty_like(index)
        blocks, places = np.divmod(index, _ORDERED_ROWS)
        present = sorted(set(zip(epochs.tolist(), blocks.tolist())))
        if len(present) == 1:  # almost always: a batch is smaller than a block
            return self._ordered(*present[0])[places]
        for epoch, block in present:
            here = (epochs == epoch) & (blocks == block)
            stored[here] = self._ordered(epoch, block)[places[here]]
        return stored

    def epochs(self, row_number: int) -> dict[str, float]:
        """Returns the epochs of the split that the rows before `row_number` make up."""
        return {self._name: row_number / self._split.num_rows}

    def _order(self, epoch: int, block: int) -> np.ndarray:
        """Returns the stored rows of a block of an epoch's order."""
        size, start = self._split.num_rows, block * _ORDERED_ROWS
        index = np.arange(start, min(start + _ORDERED_ROWS, size))
        return permute(index, size=size, key=f"{self._key}{epoch}")


class RowStream:
    """The endless sequence of batches that training consumes.

    Everything is a pure function of (rows, schedule, cursor). A jump to any position costs as much
    as one step.
    """

    def __init__(self, *, rows: NumberedRows, schedule: BatchSchedule):
        self.rows, self.schedule = rows, schedule

    def cursor(self, step: int, skips: tuple[tuple[int, int], ...] = ()) -> Cursor:
        """Returns the position at `step` of a run that started at step 0 with these skips."""
        rows = self.schedule.rows_before(step)
        return Cursor(step=step, next_row=_after(0, rows, skips), skips=skips)

    def batch_rows(self, cursor: Cursor) -> np.ndarray:
        """Returns the row numbers [batch_sequences] of the cursor's step, in batch order."""
        spans = _spans(cursor.next_row, self.schedule.sequences(cursor.step), cursor.skips)
        return np.concatenate([np.arange(start, stop, dtype=np.int64) for start, stop in spans])

    def advance(self, cursor: Cursor) -> Cursor:
        """Returns the cursor of the next step."""
        rows = self.schedule.sequences(cursor.step)
        next_row = _after(cursor.next_row, rows, cursor.skips)
        return replace(cursor, step=cursor.step + 1, next_row=next_row)

    def skip(self, cursor: Cursor, rows: int) -> Cursor:
        """Returns the cursor at the same step that skips the next `rows` rows.

        The following batches are those of the same stream without these rows.
        """
        if rows < 1:
            return cursor
        spans = _spans(cursor.next_row, rows, cursor.skips)
        skips = _merge([*cursor.skips, *spans])
        return replace(cursor, next_row=_after(cursor.next_row, 0, skips), skips=skips)

    def read(self, row_numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the rows [n, sequence_length] by field of a Batch, in the requested order."""
        return self.rows.read(row_numbers)

    def epochs(self, cursor: Cursor) -> dict[str, float]:
        """Returns the epochs before the cursor: `epochs`, or `epochs/<name>` per component."""
        epochs = self.rows.epochs(cursor.next_row)
        return {f"epochs/{name}" if name else "epochs": value for name, value in epochs.items()}


def _whole(value) -> int:
    if isinstance(value, bool) or int(value) != value:
        raise ValueError(value)
    return int(value)


def _spans(start: int, count: int, skips: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
    """Returns the ranges of the first `count` row numbers from `start` on outside all skips."""
    spans = []
    for skip_start, skip_stop in skips:
        if skip_stop <= start:
            continue
        stop = min(start + count, skip_start)
        if stop > start:
            spans.append((start, stop))
            count -= stop - start
        if not count:
            return spans
        start = skip_stop
    return [*spans, (start, start + count)] if count else spans


def _after(start: int, count: int, skips: tuple[tuple[int, int], ...]) -> int:
    """Returns the row number that follows the first `count` ones from `start` on, outside skips."""
    return _spans(start, count + 1, skips)[-1][1] - 1


def _merge(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged = []
    for start, stop in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return tuple(merged)
