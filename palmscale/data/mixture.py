"""Rows of several caches in proportion: whose row a row number is, and which of its rows.

Row numbers go in blocks of about 4096. In each, a component has the places that its weight says,
and a permutation keyed by the block spreads them over it. So the place of any row is worked out
from its number alone, the shares hold over every block, and a component's rows come in order,
each once, as if it were alone.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from palmscale.data.permutation import permute
from palmscale.data.rows import RowCache
from palmscale.data.sources import TRAIN
from palmscale.data.stream import Rows, Shuffled
from palmscale.errors import UserError

_BLOCK_ROWS = 4096
_LAST_ROW = 1 << 62  # of the last stage: past any run, and counts up to it fit an int64

Stages = Sequence[tuple[int, Mapping[str, float]]]


class Mixture:
    """Which component a row number is of, and which of the component's rows, 0, 1, 2 ..., it is.

    `stages` are pairs (first row number, weights by component); the first begins at 0, and each has
    a positive weight. Only the weights' proportions matter. They hold exactly where they are those
    of whole numbers of sum 4096 at most, else to a row in a block of 4096; a positive weight gives
    a row in each block at least.
    """

    def __init__(self, stages: Stages, *, seed: int):
        self.components = tuple(sorted(stages[0][1]))
        self._seed, self._stages = seed, list[_Stage]()
        bases_C = np.zeros(len(self.components), np.int64)
        ends = [*[first_row for first_row, _ in stages[1:]], _LAST_ROW]
        for (first_row, weights), end in zip(stages, ends, strict=True):
            weights_C = _whole_numbers([weights[name] for name in self.components])
            stage = _Stage(first_row, end, weights_C, bases_C)
            self._stages.append(stage)
            bases_C = stage.bases_after_C
        self._first_rows = np.array([first_row for first_row, _ in stages])
        # Two: the rows of a batch may lie on both sides of a block's end.
        self._block = functools.lru_cache(maxsize=2)(self._spread)

    def locate(self, row_numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns of each row number the place in `components` and the row of that component."""
        row_numbers = np.asarray(row_numbers, dtype=np.int64)
        numbers, blocks, places = self._places(row_numbers)
        component, row = np.empty_like(row_numbers), np.empty_like(row_numbers)
        for number, block in set(zip(numbers.tolist(), blocks.tolist())):
            here = (numbers == number) & (blocks == block)
            component_P, row_P = self._block(number, block)
            component[here], row[here] = component_P[places[here]], row_P[places[here]]
        return component, row

    def consumed(self, row_number: int) -> dict[str, int]:
        """Returns how many rows of each component come before `row_number`."""
        number, block, place = (int(part) for part in self._places(np.array(row_number)))
        component_P, _ = self._block(number, block)
        consumed_C = self._stages[number].bases_of_block_C(block)
        consumed_C = consumed_C + np.bincount(component_P[:place], minlength=len(consumed_C))
        return dict(zip(self.components, consumed_C.tolist()))

    def _places(self, row_numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns of each row number its stage, its block in the stage, its place in the block."""
        numbers = np.searchsorted(self._first_rows, row_numbers, side="right") - 1
        sizes = np.array([stage.block_rows for stage in self._stages])[numbers]
        return numbers, *np.divmod(row_numbers - self._first_rows[numbers], sizes)

    def _spread(self, number: int, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the component, and the row of it, at each place of a block."""
        stage = self._stages[number]
        quotas_C = stage.quotas_C(block)
        ends_C = np.cumsum(quotas_C)
        size = int(ends_C[-1])
        key = f"mixture:{self._seed}:{number}:{block}"
        shuffled_P = permute(np.arange(size), size=size, key=key)
        component_P = np.searchsorted(ends_C, shuffled_P, side="right")
        order_P = np.argsort(component_P, kind="stable")
        row_P = np.empty(size, np.int64)
        row_P[order_P] = np.arange(size) - np.repeat(ends_C - quotas_C, quotas_C)
        return component_P, row_P + stage.bases_of_block_C(block)[component_P]


class Mixed:
    """The rows of several splits in the proportions of a mixture, each split shuffled by itself.

    `splits` and the weights of `stages` (see Mixture) have the same names. Raises UserError when a
    split has no rows.
    """

    def __init__(self, splits: Mapping[str, Rows], stages: Stages, *, seed: int):
        self._mixture, self._splits = Mixture(stages, seed=seed), splits
        self._rows = [
            Shuffled(splits[name], seed=seed, name=name) for name in self._mixture.components
        ]
        self.sequence_length = self._rows[0].sequence_length

    def read(self, row_numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the rows [n, sequence_length] by field of a Batch, in the order asked for."""
        component, row = self._mixture.locate(row_numbers)
        present = np.unique(component).tolist()
        order = np.argsort(component, kind="stable")
        parts = [self._rows[index].read(row[component == index]) for index in present]
        mixed = {}
        for name in parts[0]:
            values = np.concatenate([part[name] for part in parts])
            mixed[name] = np.empty_like(values)
            mixed[name][order] = values
        return mixed

    def names(self, row_numbers: np.ndarray) -> list[str]:
        """Returns the split that each of the rows is of."""
        component, _ = self._mixture.locate(row_numbers)
        return [self._mixture.components[index] for index in component.tolist()]

    def epochs(self, row_number: int) -> dict[str, float]:
        """Returns how often the rows before `row_number` went through each split."""
        consumed = self._mixture.consumed(row_number)
        return {name: rows / self._splits[name].num_rows for name, rows in consumed.items()}


def check_alike(caches: Mapping[str, RowCache]) -> None:
    """Raises UserError unless the caches may be mixed: equal vocabularies, lengths and fields."""
    (first, one), *others = caches.items()
    for name, other in others:
        for what, seen in (
            ("vocabularies", lambda cache: cache.vocabulary.digest),
            ("row lengths", lambda cache: cache.sequence_length),
            ("packings", lambda cache: cache.split(TRAIN).is_packed),
        ):
            if seen(one) != seen(other):
                raise UserError(
                    f"the components {first} and {name} have different {what} ({one.directory},"
                    f" {other.directory}) - a mixture needs the same in all - build both with one"
                    " SENTENCEPIECE_MODEL, SEQUENCE_LENGTH and PACKING"
                )


class _Stage:
    """The row numbers from `first_row` to before `end`, mixed by one set of weights.

    The last block is as long as what is left, and has its own quotas. `bases_C` and `bases_after_C`
    count each component's rows before the stage and up to its end.
    """

    def __init__(self, first_row: int, end: int, weights_C: Sequence[int], bases_C: np.ndarray):
        total = sum(weights_C)
        self.block_rows = _BLOCK_ROWS if total > _BLOCK_ROWS else _BLOCK_ROWS // total * total
        self._full_blocks, rest = divmod(end - first_row, self.block_rows)
        self._full_C = _quotas(weights_C, self.block_rows, least=1)
        self._last_C = _quotas(weights_C, rest, least=0)
        self._bases_C = bases_C
        self.bases_after_C = self.bases_of_block_C(self._full_blocks) + self._last_C

    def quotas_C(self, block: int) -> np.ndarray:
        """Returns how many places of the block each component has."""
        return self._full_C if block < self._full_blocks else self._last_C

    def bases_of_block_C(self, block: int) -> np.ndarray:
        """Returns how many rows of each component come before the block."""
        return self._bases_C + block * self._full_C


def _whole_numbers(weights: Sequence[float]) -> list[int]:
    """Returns the smallest whole numbers in the proportions of the weights as they are written."""
    fractions = [Fraction(str(weight)) for weight in weights]
    scale = math.lcm(*(fraction.denominator for fraction in fractions))
    numbers = [int(fraction * scale) for fraction in fractions]
    return [number // math.gcd(*numbers) for number in numbers]


def _quotas(weights_C: Sequence[int], size: int, *, least: int) -> np.ndarray:
    """Returns whole numbers of sum `size` nearest to the weights' shares: largest remainders.

    A positive weight has at least `least`; what that takes comes from the largest.
    """
    total = sum(weights_C)
    shares = [divmod(weight * size, total) for weight in weights_C]
    quotas_C = np.array([whole for whole, _ in shares], np.int64)
    by_remainder = sorted(range(len(shares)), key=lambda c: -shares[c][1])
    quotas_C[by_remainder[: size - int(quotas_C.sum())]] += 1
    for c, weight in enumerate(weights_C):
        if weight and quotas_C[c] < least:
            quotas_C[np.argmax(quotas_C)] -= least - quotas_C[c]
            quotas_C[c] = least
    return quotas_C
