"""Which documents of a corpus are held out for evaluation.

The choice is a pure function of the text and the fraction: hashes of names order the candidates, so
every machine and every process chooses alike.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from palmscale.data.sources.source import SPLITS, TRAIN, VALIDATION, SourceShard

TOLERANCE = 0.2  # of the fraction, relative
_SURVEYED_BYTES = 1 << 27  # of a larger corpus, chance comes close enough to the fraction
_SURVEYED_DOCUMENTS = 1 << 18

TextSizes = Callable[[SourceShard], Iterable[int]]  # UTF-8 bytes of each document of a shard


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitOf:
    """The function from (shard, number of a document in it) to the split's name.

    Attributes:
        units: names of the units that are held out as a whole.
        documents: by shard, the numbers of the documents that are held out one by one; None: those
            whose hash is below `fraction`.
        fraction: at least 0 and below 1.
    """

    units: frozenset[str] = frozenset()
    documents: Mapping[str, frozenset[int]] | None = None
    fraction: float = 0.0

    def __call__(self, shard: SourceShard, number: int) -> str:
        if shard.split is not None:
            return shard.split
        if self.documents is not None:
            is_held_out = number in self.documents.get(shard.name, ())
        else:
            is_held_out = _unit(shard) in self.units or _is_below(shard, number, self.fraction)
        return VALIDATION if is_held_out else TRAIN

    @functools.cached_property
    def digest(self) -> str:
        """Equal digests mean equal splits of the same shards."""
        documents = self.documents and {name: sorted(held) for name, held in self.documents.items()}
        text = json.dumps([sorted(self.units), documents, self.fraction], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def splits_in(self, shard: SourceShard) -> Sequence[str]:
        """Returns the splits that documents of the shard may belong to."""
        if shard.split is not None:
            return (shard.split,)
        if self.documents is not None:
            return SPLITS if self.documents.get(shard.name) else (TRAIN,)
        if _unit(shard) in self.units:
            return (VALIDATION,)
        return SPLITS if self.fraction else (TRAIN,)


def split_of(
    shards: Iterable[SourceShard], fraction: float, text_sizes: TextSizes | None
) -> SplitOf:
    """Returns the splits of a source's documents, with about `fraction` of the text held out.

    Whole units are held out if some come within TOLERANCE of the fraction. Otherwise, documents of
    shards with many documents are held out one by one. A small corpus is read for this purpose:
    where the sizes of its documents allow it, the share is within TOLERANCE of the fraction. It is
    never more than twice the fraction.

    Args:
        shards: all shards of the source.
        fraction: of the bytes, at least 0 and below 1.
        text_sizes: reads a shard; None: documents cannot be measured.
    """
    unassigned = [shard for shard in shards if shard.split is None]
    if not fraction or not unassigned:
        return SplitOf()
    sizes: dict[str, int] = {}
    for shard in unassigned:
        sizes[_unit(shard)] = sizes.get(_unit(shard), 0) + shard.bytes
    units = _choose(sizes, fraction)
    has_many_documents = all(shard.has_many_documents for shard in unassigned)
    if not has_many_documents or _is_close(units, sizes, fraction):
        return SplitOf(units=frozenset(units))
    by_hash = SplitOf(fraction=fraction)
    measured = None
    if text_sizes is not None and 0 < sum(sizes.values()) <= _SURVEYED_BYTES:
        measured = _measure(unassigned, text_sizes)
    if measured is None:
        return by_hash
    below = [name for name in measured if _hash(name) < fraction]
    if _is_close(below, measured, fraction):
        return by_hash
    documents: dict[str, set[int]] = {}
    for name in _choose(measured, fraction):
        shard_name, _, number = name.rpartition(":")
        documents.setdefault(shard_name, set()).add(int(number))
    return SplitOf(documents={name: frozenset(held) for name, held in documents.items()})


def _unit(shard: SourceShard) -> str:
    return shard.holdout_unit or shard.name


def _hash(name: str) -> float:
    """Returns a number in [0, 1]."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64


def _is_below(shard: SourceShard, number: int, fraction: float) -> bool:
    return bool(fraction) and _hash(f"{shard.name}:{number}") < fraction


def _measure(shards: Iterable[SourceShard], text_sizes: TextSizes) -> dict[str, int] | None:
    """Returns the size of each document by `shard:number`; None: there are too many."""
    sizes: dict[str, int] = {}
    for shard in shards:
        for number, size in enumerate(text_sizes(shard)):
            if size:
                sizes[f"{shard.name}:{number}"] = size
            if len(sizes) > _SURVEYED_DOCUMENTS:
                return None
    return sizes


def _is_close(chosen: Iterable[str], sizes: Mapping[str, int], fraction: float) -> bool:
    wanted = fraction * sum(sizes.values())
    share = sum(sizes[name] for name in chosen)
    return wanted > 0 and abs(share - wanted) <= TOLERANCE * wanted


def _choose(sizes: Mapping[str, int], fraction: float) -> list[str]:
    """Returns names whose sizes add up to about `fraction` of all, at most to twice that.

    The sum is within TOLERANCE of the fraction if that of any selection is. Some text remains.
    """
    sizes = {name: size for name, size in sizes.items() if size}
    total = sum(sizes.values())
    wanted = fraction * total
    nearest, nearest_size = list[str](), 0
    for order in _orders(sizes, wanted):
        chosen, held = [], 0
        for name in order:
            if held + sizes[name] <= min((1 + TOLERANCE) * wanted, total - 1):
                chosen.append(name)
                held += sizes[name]
            if held >= wanted:
                break
        if _is_close(chosen, sizes, fraction):
            return chosen
        if held > nearest_size:
            nearest, nearest_size = chosen, held
    larger = [name for name, size in sizes.items() if wanted < size <= min(2 * wanted, total - 1)]
    smallest = min(larger, key=sizes.__getitem__, default=None)
    if smallest is not None and wanted / sizes[smallest] > nearest_size / wanted:
        return [smallest]
    return nearest


def _orders(sizes: Mapping[str, int], wanted: float) -> Iterator[list[str]]:
    """Yields the orders in which to take what fits: by hash, then from large to small.

    From large to small, three starts suffice. Where taking what fits stops below 0.8 of what is
    wanted, all that is left is above 0.4. So if a selection within 0.2 exists, one is found from
    the largest size, from the largest up to 0.6, or, with one of at most 0.6, from the smallest
    above 0.6.
    """
    by_hash = sorted(sizes, key=lambda name: hashlib.sha256(name.encode()).digest())
    yield by_hash
    fitting = [name for name in by_hash if sizes[name] <= (1 + TOLERANCE) * wanted]
    fitting.sort(key=lambda name: -sizes[name])
    above = sum(sizes[name] > (1 + TOLERANCE) / 2 * wanted for name in fitting)
    for start in (0, above, max(0, above - 1)):
        yield fitting[start:]
