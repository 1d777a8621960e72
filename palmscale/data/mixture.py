"""Mixing the rows of several caches by weight.

Row numbers are divided into blocks of about 4096. In each block, every component has a quota of
positions that follows its weight, and a permutation keyed by the block distributes them. A row's
component and its number within the component are therefore functions of the row number alone, the
proportions hold in every block, and each component's rows come in their own order, each once.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from palmscale.data.permutation import permute
from palmscale.data.row_cache import RowCache
from palmscale.data.sources.source import TRAIN
from palmscale.data.stream import Rows, Shuffled
from palmscale.errors import UserError

_BLOCK_ROWS = 4096
_LAST_ROW = 1 << 62  # of the last stage: beyond any run, and counts up to it fit into int64

Stages = Sequence[tuple[int, Mapping[str, float]]]


class Mixture:
    """Maps row numbers to a component and the number of a row within it.

    The proportions of the weights hold exactly if they are those of whole numbers with a sum of at
    most 4096, and otherwise to within one row per block of 4096. A component of positive weight has
    at least one row in every block.

    Args:
        stages: pairs (first row number, weights by component). The first starts at 0, and each has
            a positive weight. Only the ratios of the weights matter.
        seed: of the permutations.
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
        # Two: a batch may span two blocks.
        self._block = functools.lru_cache(maxsize=2)(self._spread)

    def locate(self, row_numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns for each row number the index in `components` and the row within it."""
        row_numbers = np.asarray(row_numbers, dtype=np.int64)
        numbers, blocks, places = self._places(row_numbers)
        component, row = np.empty_like(row_numbers), np.empty_like(row_numbers)
        for number, block in set(zip(numbers.tolist(), blocks.tolist())):
            here = (numbers == number) & (blocks == block)
            component_P, row_P = self._block(number, block)
            component[here], row[here] = component_P[places[here]], row_P[places[here]]
        return component, row

    def consumed(self, row_number: int) -> dict[str, int]:
        """Returns the number of rows before `row_number`, by component."""
        number, block, place = (int(part) for part in self._places(np.array(row_number)))
        component_P, _ = self._block(number, block)
        consumed_C = self._stages[number].bases_of_block_C(block)
        consumed_C = consumed_C + np.bincount(component_P[:place], minlength=len(consumed_C))
        return dict(zip(self.components, consumed_C.tolist()))

    def _places(self, row_numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns for each row number its stage, block in the stage and position in the block."""
        numbers = np.searchsorted(self._first_rows, row_numbers, side="right") - 1
        sizes = np.array([stage.block_rows for stage in self._stages])[numbers]
        return numbers, *np.divmod(row_numbers - self._first_rows[numbers], sizes)

    def _spread(self, number: int, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the component and the row within it for each position of a block."""
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


def rates(weights: Mapping[str, float]) -> dict[str, float]:
    """Returns the share of rows that each component gets, of a sum of 1.

    Raises:
        UserError: a share is too small for the quotas of a block, so that the component's rate
            would be off by more than a tenth.
    """
    names, numbers = list(weights), _whole_numbers(list(weights.values()))
    rows = _block_rows(numbers)
    result = {}
    for name, number, quota in zip(names, numbers, _quotas(numbers, rows, least=1).tolist()):
        result[name] = quota / rows
        asked = number / sum(numbers)
        if abs(result[name] - asked) > asked / 10:
            raise UserError(
                f"the component {name} would get {quota} of {rows:,} rows, but Component.weight"
                f" asks for {asked:.3g} of all rows; use whole numbers with a sum of at most"
                f" {_BLOCK_ROWS:,}, or a weight of 0 to leave the component out."
            )
    return result


class Mixed:
    """The rows of several splits, mixed by weight, each split shuffled on its own.

    Args:
        splits: stored rows by component.
        stages: see Mixture; its components are those of `splits`.
        seed: of all orders.

    Raises:
        UserError: a split has no rows.
    """

    def __init__(self, splits: Mapping[str, Rows], stages: Stages, *, seed: int):
        self._mixture, self._splits = Mixture(stages, seed=seed), splits
        self._rows = [
            Shuffled(splits[name], seed=seed, name=name) for name in self._mixture.components
        ]
        self.sequence_length = self._rows[0].sequence_length

    def read(self, row_numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the rows [n, sequence_length] by field of a Batch, in the requested order."""
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
        """Returns the component of each row."""
        component, _ = self._mixture.locate(row_numbers)
        return [self._mixture.components[index] for index in component.tolist()]

    def epochs(self, row_number: int) -> dict[str, float]:
        """Returns the epochs of each component that the rows before `row_number` make up."""
        consumed = self._mixture.consumed(row_number)
        return {name: rows / self._splits[name].num_rows for name, rows in consumed.items()}


def check_alike(caches: Mapping[str, RowCache]) -> None:
    """Raises UserError unless the caches have equal vocabularies, sequence lengths and packings."""
    (first, one), *others = caches.items()
    for name, other in others:
        for what, seen in (
            ("vocabularies", lambda cache: cache.vocabulary.digest),
            ("sequence lengths", lambda cache: cache.sequence_length),
            ("packings", lambda cache: cache.split(TRAIN).is_packed),
        ):
            if seen(one) != seen(other):
                raise UserError(
                    f"the components {first} and {name} have different {what} ({one.directory},"
                    f" {other.directory}); build both with the same Data.sentencepiece_model,"
                    " Data.sequence_length and Data.packing."
                )


class _Stage:
    """The row numbers in [first_row, end), mixed by one set of weights.

    The last block may be shorter and has quotas of its own. `bases_C` and `bases_after_C` count
    each component's rows before the stage and before its end.
    """

    def __init__(self, first_row: int, end: int, weights_C: Sequence[int], bases_C: np.ndarray):
        self.block_rows = _block_rows(weights_C)
        self._full_blocks, rest = divmod(end - first_row, self.block_rows)
        self._full_C = _quotas(weights_C, self.block_rows, least=1)
        self._last_C = _quotas(weights_C, rest, least=0)
        self._bases_C = bases_C
        self.bases_after_C = self.bases_of_block_C(self._full_blocks) + self._last_C

    def quotas_C(self, block: int) -> np.ndarray:
        """Returns the number of positions of each component in the block."""
        return self._full_C if block < self._full_blocks else self._last_C

    def bases_of_block_C(self, block: int) -> np.ndarray:
        """Returns the number of rows of each component before the block."""
        return self._bases_C + block * self._full_C


def _block_rows(weights_C: Sequence[int]) -> int:
    """Returns the number of rows of a block, in which whole numbers up to 4096 hold exactly."""
    total = sum(weights_C)
    return _BLOCK_ROWS if total > _BLOCK_ROWS else _BLOCK_ROWS // total * total


def _whole_numbers(weights: Sequence[float]) -> list[int]:
    """Returns the smallest whole numbers with the ratios of the weights as written in decimal."""
    fractions = [Fraction(str(weight)) for weight in weights]
    scale = math.lcm(*(fraction.denominator for fraction in fractions))
    numbers = [int(fraction * scale) for fraction in fractions]
    return [number // math.gcd(*numbers) for number in numbers]


def _quotas(weights_C: Sequence[int], size: int, *, least: int) -> np.ndarray:
    """Returns whole numbers of sum `size` in proportion to the weights (largest remainders).

    A positive weight gets at least `least`, at the expense of the largest quota.
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
