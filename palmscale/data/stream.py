"""A position in the data is a number: step to row numbers, row numbers to stored rows. NumPy only.

Row *numbers* count what the run consumes, 0, 1, 2 ... for ever. Number r is in epoch r // num_rows,
and a permutation keyed by (seed, epoch) says which stored row it is. Which host reads a row plays
no part.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import jax
import numpy as np
from flax import struct

from palmscale.data.permutation import permute
from palmscale.errors import UserError

# Worked out together: a permutation of a hundred places costs a few milliseconds, and so does this.
_ORDERED_ROWS = 4096


@struct.dataclass
class Batch:
    """Token ids and what is known of them, each [batch_sequences, sequence_length]; None is absent.

    The inputs are the targets shifted right by one with bos first; the train step makes them.
    """

    target_BL: jax.Array  # int32
    segment_BL: jax.Array | None = None  # int32; attention stays within equal numbers
    position_BL: jax.Array | None = None  # int32
    weight_BL: jax.Array | None = None  # float32; absent means 1 everywhere


@dataclass(frozen=True)
class BatchSchedule:
    """How many sequences a step consumes: pairs (first step, batch sequences).

    The paper's 540B run is ((0, 512), (50_000, 1024), (115_000, 2048)) (PaLM, section 5).
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
                f"BATCH_SCHEDULE={self.stages!r} - needed are pairs (first step, batch sequences)"
                " of whole numbers whose first steps begin at 0 and increase - write for example"
                " ((0, 512), (50_000, 1024))"
            )
        if any(sequences < 1 for _, sequences in stages):
            raise UserError(
                f"BATCH_SCHEDULE={self.stages!r} - each step needs at least one sequence - make the"
                " second number of each pair positive"
            )
        object.__setattr__(self, "stages", stages)

    def sequences(self, step: int) -> int:
        """Returns the number of sequences in the batch of `step`."""
        return next(sequences for first, sequences in reversed(self.stages) if first <= step)

    def rows_before(self, step: int) -> int:
        """Returns how many rows steps 0 .. step - 1 consume together."""
        ends = [first for first, _ in self.stages[1:]] + [step]
        return sum(
            sequences * max(0, min(end, step) - first)
            for (first, sequences), end in zip(self.stages, ends)
        )


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """Where a run stands in its data, independent of hosts, mesh and prefetching.

    `step` is the step about to run and `next_row` the first row number it may consume; `skips` are
    half-open ranges of row numbers to leave out, in order and apart from each other.
    """

    step: int = 0
    next_row: int = 0
    skips: tuple[tuple[int, int], ...] = ()

    def __post_init__(self):
        edges = [edge for skip in self.skips for edge in skip]
        if any(a >= b for a, b in zip(edges, edges[1:])):
            raise ValueError(f"skips={self.skips} are not increasing ranges apart from each other")

    def to_json(self) -> dict[str, Any]:
        """Returns the cursor as plain lists and numbers."""
        return {
            "step": self.step,
            "next_row": self.next_row,
            "skips": [list(s) for s in self.skips],
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Cursor":
        """Returns the cursor that `to_json` described."""
        skips = tuple((int(start), int(stop)) for start, stop in stored["skips"])
        return cls(step=int(stored["step"]), next_row=int(stored["next_row"]), skips=skips)


class Rows(Protocol):
    """Stored rows, such as a split of a RowCache."""

    num_rows: int
    sequence_length: int

    def read(self, row_indices: np.ndarray) -> dict[str, np.ndarray]:
        """Returns [n, sequence_length] by field of a Batch, in the order asked for."""


class NumberedRows(Protocol):
    """Rows by their number: those of one split, shuffled, or of several in proportion."""

    sequence_length: int

    def read(self, row_numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Returns [n, sequence_length] by field of a Batch, in the order asked for."""

    def epochs(self, row_number: int) -> dict[str, float]:
        """Returns how often the rows before `row_number` went through each split, by its name."""


class Shuffled:
    """A split's rows for ever: each stored row once an epoch, in another order each epoch.

    `name` is that of a mixture's component; each has orders of its own. Raises UserError when there
    are no rows.
    """

    def __init__(self, split: Rows, *, seed: int, name: str = ""):
        if split.num_rows < 1:
            raise UserError(
                f"the split {f'of {name} ' if name else ''}has no rows - a stream needs at least"
                " one - add text, or make SEQUENCE_LENGTH smaller"
            )
        self.sequence_length = split.sequence_length
        self._split, self._name = split, name
        self._key = f"rows:{seed}:{name}:" if name else f"rows:{seed}:"
        # Two: the rows of a batch may lie on both sides of a block's end.
        self._ordered = functools.lru_cache(maxsize=2)(self._order)

    def read(self, row_numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the rows [n, sequence_length] by field of a Batch: `target`, and what else."""
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
        """Returns how often the rows before `row_number` went through the split."""
        return {self._name: row_number / self._split.num_rows}

    def _order(self, epoch: int, block: int) -> np.ndarray:
        """Returns the stored rows of a block of an epoch's order."""
        size, start = self._split.num_rows, block * _ORDERED_ROWS
        index = np.arange(start, min(start + _ORDERED_ROWS, size))
        return permute(index, size=size, key=f"{self._key}{epoch}")


class RowStream:
    """The endless sequence of batches that training consumes.

    Everything is a pure function of (rows, schedule, cursor), and a jump anywhere costs what a step
    does.
    """

    def __init__(self, *, rows: NumberedRows, schedule: BatchSchedule):
        self.rows, self.schedule = rows, schedule

    def cursor(self, step: int, skips: tuple[tuple[int, int], ...] = ()) -> Cursor:
        """Returns where a run from step 0 on this schedule stands at `step`, hopping over skips."""
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
        """Returns the cursor that leaves out the next `rows` rows; the step stays.

        The batches from it on are those of the same stream with these rows taken out.
        """
        if rows < 1:
            return cursor
        spans = _spans(cursor.next_row, rows, cursor.skips)
        skips = _merge([*cursor.skips, *spans])
        return replace(cursor, next_row=_after(cursor.next_row, 0, skips), skips=skips)

    def read(self, row_numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the rows [n, sequence_length] by field of a Batch: `target`, and what else."""
        return self.rows.read(row_numbers)

    def epochs(self, cursor: Cursor) -> dict[str, float]:
        """Returns the epochs before the cursor: `epochs`, or `epochs/<name>` of each component."""
        epochs = self.rows.epochs(cursor.next_row)
        return {f"epochs/{name}" if name else "epochs": value for name, value in epochs.items()}


def _whole(value) -> int:
    if isinstance(value, bool) or int(value) != value:
        raise ValueError(value)
    return int(value)


def _spans(start: int, count: int, skips: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
    """Returns the ranges of the `count` row numbers from `start` on that no skip covers."""
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
    """Returns the first row number that no skip covers after `count` such rows from `start` on."""
    return _spans(start, count + 1, skips)[-1][1] - 1


def _merge(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged = []
    for start, stop in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return tuple(merged)
