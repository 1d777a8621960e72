"""The second half of a build: a shard of rows, from what the units spilled.

Where each shard begins is worked out from how many tokens lie under each prefix of the keys, before
any row is written; so shards are written in any order, and none needs another.
"""

import bisect
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module

from palmscale.data.pack import CONCATENATE, Fields, encode_rows, fields_of, pack_examples
from palmscale.data.processes import Count
from palmscale.data.rows import file_digest
from palmscale.data.sources import SPLITS
from palmscale.data.spill import INDEX, flush, write_record

_SHARD_BYTES = 1 << 26  # of tokens: what one process holds in memory, twice
_PREFIX_BITS = 16  # of the keys: the finest place where a search for a shard's documents begins
_COUNT_ROWS = 512

Runs = Mapping[str, Mapping[str, Sequence[int]]]  # unit's name -> split -> documents of each run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Writing:
    """What every shard of a build has in common.

    Attributes:
        directory: of the shards.
        work: of what the units spilled, and of the shards' records.
        vocabulary_size: ids lie below it.
        pad_id: where a packed row has no token.
        sequence_length: tokens a row.
        packing: `concatenate` or `segments`.
    """

    directory: Path
    work: Path
    vocabulary_size: int
    pad_id: int
    sequence_length: int
    packing: str

    @property
    def fields(self) -> Fields:
        """What a row's record holds."""
        return fields_of(self.packing, self.vocabulary_size)

    @property
    def token_bytes(self) -> int:
        """Bytes of a stored token."""
        return self.fields[0][1].itemsize

    @property
    def rows_per_shard(self) -> int:
        """Rows of a shard that is not its split's last."""
        return max(1, _SHARD_BYTES // (self.sequence_length * self.token_bytes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """Which documents are in a shard: key prefixes, and the tokens of them that are.

    `skip` tokens of the documents in `first_prefix` .. `last_prefix`, in the order of their keys,
    belong to the shard before; `tokens` follow. Packed shards take all.
    """

    split: str
    number: int
    first_prefix: int
    last_prefix: int
    skip: int
    tokens: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.split}-{self.number:05d}.arrayrecord"


def plan_shards(runs: Runs, writing: Writing) -> list[ShardPlan]:
    """Returns the plans of every split's shards, in order."""
    plans = []
    for split in SPLITS:
        tokens = np.zeros(1 << _PREFIX_BITS, np.int64)
        for unit in runs:
            if split in runs[unit]:
                index = np.fromfile(writing.work / f"{unit}.{split}.index", INDEX)
                prefixes = index["key"] >> np.uint64(64 - _PREFIX_BITS)
                tokens += np.bincount(prefixes, index["length"], len(tokens)).astype(np.int64)
        plans += _plan_split(split, np.cumsum(tokens), writing)
    return plans


def _plan_split(split: str, ends: np.ndarray, writing: Writing) -> Iterator[ShardPlan]:
    """Yields the shards of a split of which `ends[p]` tokens lie under the prefixes up to p."""
    per_shard = writing.rows_per_shard * writing.sequence_length
    if writing.packing == CONCATENATE:
        last = int(ends[-1]) // writing.sequence_length * writing.sequence_length
        for number, start in enumerate(range(0, last, per_shard)):
            stop = min(start + per_shard, last)
            first_prefix = int(np.searchsorted(ends, start, side="right"))
            yield ShardPlan(
                split=split,
                number=number,
                first_prefix=first_prefix,
                last_prefix=int(np.searchsorted(ends, stop, side="left")),
                skip=start - (int(ends[first_prefix - 1]) if first_prefix else 0),
                tokens=stop - start,
            )
        return
    start, number, first_prefix = 0, 0, 0
    while start < ends[-1]:
        last_prefix = int(np.searchsorted(ends, min(start + per_shard, ends[-1]), side="left"))
        yield ShardPlan(
            split=split,
            number=number,
            first_prefix=first_prefix,
            last_prefix=last_prefix,
            skip=0,
            tokens=int(ends[last_prefix]) - start,
        )
        start, number, first_prefix = int(ends[last_prefix]), number + 1, last_prefix + 1


def write_shard(plan: ShardPlan, count: Count, *, runs: Runs, writing: Writing) -> dict[str, Any]:
    """Returns the shard's record, having written its file and, after it, the record's."""
    documents = list(_documents(plan, runs, writing))
    extra: dict[str, int] = {}
    if writing.packing == CONCATENATE:
        joined = np.concatenate([tokens for tokens, _ in documents])
        rows = joined[plan.skip : plan.skip + plan.tokens].reshape(-1, writing.sequence_length)
        columns = [rows]
    else:
        packed = pack_examples(
            *zip(*documents), sequence_length=writing.sequence_length, pad_id=writing.pad_id
        )
        extra = {"truncated": packed.truncated, "dropped": packed.dropped}
        columns = [packed.target, packed.segment, packed.weight]
    columns = [c.astype(dtype, copy=False) for c, (_, dtype) in zip(columns, writing.fields)]
    del documents
    path = writing.directory / plan.name
    partial = path.with_name(f"{path.name}.partial")
    _write_rows(partial, columns, plan, count)
    digest = hashlib.sha256()
    for column in columns:
        digest.update(np.ascontiguousarray(column))
    entry = {
        "name": plan.name,
        "rows": len(columns[0]),
        "tokens": int(columns[0].size if len(columns) == 1 else (columns[1] > 0).sum()),
        "bytes": partial.stat().st_size,
        "sha256": file_digest(partial),
        "rows_sha256": digest.hexdigest(),
        **extra,
    }
    flush(partial)
    partial.rename(path)
    write_record(_record_path(plan, writing), entry)
    return entry


def written_shard(plan: ShardPlan, writing: Writing) -> dict[str, Any] | None:
    """Returns the record of a shard that an earlier build wrote."""
    path = writing.directory / plan.name
    try:
        entry = json.loads(_record_path(plan, writing).read_text())
        return entry if path.stat().st_size == entry["bytes"] else None
    except (OSError, ValueError):
        return None


def forget_shards(writing: Writing) -> None:
    """Has every shard written anew: the units are not those that it was written from."""
    for record in writing.work.glob("*.arrayrecord.json"):
        record.unlink()


def _record_path(plan: ShardPlan, writing: Writing) -> Path:
    return writing.work / f"{plan.name}.json"


def _documents(plan: ShardPlan, runs: Runs, writing: Writing) -> Iterator[tuple[np.ndarray, int]]:
    """Yields (tokens with eod, how many of them are the prompt) by key; of equals as they came."""
    first_key = plan.first_prefix << 64 - _PREFIX_BITS
    end_key = plan.last_prefix + 1 << 64 - _PREFIX_BITS
    found: list[np.ndarray] = []
    tokens: list[np.ndarray] = []
    for unit in runs:
        if plan.split not in runs[unit]:
            continue
        stem, dtype = writing.work / f"{unit}.{plan.split}", writing.fields[0][1]
        index = np.asarray(np.memmap(f"{stem}.index", INDEX, mode="r"))
        start = 0
        for length in runs[unit][plan.split]:
            run = index[start : start + length]
            low = bisect.bisect_left(run["key"], first_key, key=int)
            high = bisect.bisect_left(run["key"], end_key, key=int)
            if low < high:  # neighbors in a run: one read brings them
                part = np.array(run[low:high])
                begin, count = int(part["start"][0]), int(part["length"].sum())
                part["start"] -= begin
                found.append(part)
                offset = begin * dtype.itemsize
                tokens.append(np.fromfile(f"{stem}.tokens", dtype, count, offset=offset))
            start += length
    index = np.concatenate(found)
    run_of = np.repeat(np.arange(len(found)), [len(run) for run in found])
    order = np.argsort(index["key"], kind="stable")
    for run, (_, start, length, prompt) in zip(run_of[order].tolist(), index[order].tolist()):
        yield tokens[run][start : start + length], prompt


def _write_rows(path: Path, columns: Sequence[np.ndarray], plan: ShardPlan, count: Count) -> None:
    # Uncompressed: zstd would save 40 % of the disk and take half of a build's time, and a quarter
    # of a reader's.
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    row_bytes = sum(column.shape[1] * column.itemsize for column in columns)
    columns = [np.ascontiguousarray(column) for column in columns]
    for place, record in enumerate(encode_rows(columns, plan.number)):
        writer.write(record)
        if place % _COUNT_ROWS == _COUNT_ROWS - 1:
            count(_COUNT_ROWS * row_bytes)
    count(len(columns[0]) % _COUNT_ROWS * row_bytes)
    writer.close()
