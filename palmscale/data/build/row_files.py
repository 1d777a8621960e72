"""The second half of a build: files of rows, merged from the sorted runs that work units spilled.

The start of each file is computed from the number of tokens under each key prefix before any row is
written. Files may therefore be written in any order and independently of one another.
"""

import bisect
import dataclasses
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module

from palmscale.data.build.processes import Count
from palmscale.data.build.spill import INDEX, flush, write_record
from palmscale.data.pack import CONCATENATE, Fields, encode_rows, fields_of, pack_examples
from palmscale.data.row_cache import file_digest
from palmscale.data.sources.source import SPLITS

_FILE_BYTES = 1 << 26  # of tokens; a process holds twice as much in memory
_PREFIX_BITS = 16  # of the keys: the resolution at which files are planned
_COUNT_ROWS = 512

# Name of a work unit -> split -> number of documents in each sorted run.
RunLengths = Mapping[str, Mapping[str, Sequence[int]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowFileSpec:
    """What all row files of a build have in common.

    Attributes:
        directory: of the row files.
        work: folder of the sorted runs and of the row files' completion records.
        vocabulary_size: ids lie in [0, vocabulary_size).
        pad_id: fills the positions of a packed row that have no token.
        sequence_length: tokens per row.
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
        """Names and types of the values that a row's record stores."""
        return fields_of(self.packing, self.vocabulary_size)

    @property
    def token_bytes(self) -> int:
        """Size of a stored token."""
        return self.fields[0][1].itemsize

    @property
    def rows_per_file(self) -> int:
        """Number of rows in every file of a split but the last."""
        return max(1, _FILE_BYTES // (self.sequence_length * self.token_bytes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowFilePlan:
    """Which tokens go into a row file.

    Of the documents whose key prefix lies in `first_prefix` to `last_prefix` (inclusive), in the
    order of their keys, the first `skip` tokens belong to the previous file and the next `tokens`
    to this one. A file of packed rows contains all of these documents.
    """

    split: str
    number: int
    first_prefix: int
    last_prefix: int
    skip: int
    tokens: int

    @property
    def name(self) -> str:
        """The file's name."""
        return f"{self.split}-{self.number:05d}.arrayrecord"


def plan_row_files(runs: RunLengths, spec: RowFileSpec) -> list[RowFilePlan]:
    """Returns the plans of all splits' files, in order."""
    plans = []
    for split in SPLITS:
        tokens = np.zeros(1 << _PREFIX_BITS, np.int64)
        for unit in runs:
            if split in runs[unit]:
                index = np.fromfile(spec.work / f"{unit}.{split}.index", INDEX)
                prefixes = index["key"] >> np.uint64(64 - _PREFIX_BITS)
                tokens += np.bincount(prefixes, index["length"], len(tokens)).astype(np.int64)
        plans += _plan_split(split, np.cumsum(tokens), spec)
    return plans


def _plan_split(split: str, ends: np.ndarray, spec: RowFileSpec) -> Iterator[RowFilePlan]:
    """Yields the files of a split that has `ends[p]` tokens under the prefixes up to p."""
    per_file = spec.rows_per_file * spec.sequence_length
    if spec.packing == CONCATENATE:
        last = int(ends[-1]) // spec.sequence_length * spec.sequence_length
        for number, start in enumerate(range(0, last, per_file)):
            stop = min(start + per_file, last)
            first_prefix = int(np.searchsorted(ends, start, side="right"))
            yield RowFilePlan(
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
        last_prefix = int(np.searchsorted(ends, min(start + per_file, ends[-1]), side="left"))
        yield RowFilePlan(
            split=split,
            number=number,
            first_prefix=first_prefix,
            last_prefix=last_prefix,
            skip=0,
            tokens=int(ends[last_prefix]) - start,
        )
        start, number, first_prefix = int(ends[last_prefix]), number + 1, last_prefix + 1


def write_row_file(
    plan: RowFilePlan, count: Count, *, runs: RunLengths, spec: RowFileSpec
) -> dict[str, Any]:
    """Writes a row file, then its completion record, and returns the record."""
    documents = list(_documents(plan, runs, spec))
    extra: dict[str, int] = {}
    if spec.packing == CONCATENATE:
        joined = np.concatenate([tokens for tokens, _ in documents])
        rows = joined[plan.skip : plan.skip + plan.tokens].reshape(-1, spec.sequence_length)
        columns = [rows]
    else:
        packed = pack_examples(
            *zip(*documents), sequence_length=spec.sequence_length, pad_id=spec.pad_id
        )
        extra = {"truncated": packed.truncated, "dropped": packed.dropped}
        columns = [packed.target, packed.segment, packed.weight]
    columns = [c.astype(dtype, copy=False) for c, (_, dtype) in zip(columns, spec.fields)]
    del documents
    path = spec.directory / plan.name
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
    write_record(_record_path(plan, spec), entry)
    return entry


def written_row_file(plan: RowFilePlan, spec: RowFileSpec) -> dict[str, Any] | None:
    """Returns the record of a row file that an earlier build completed; None: it did not."""
    path = spec.directory / plan.name
    try:
        entry = json.loads(_record_path(plan, spec).read_text())
        return entry if path.stat().st_size == entry["bytes"] else None
    except (OSError, ValueError):
        return None


def forget_row_files(spec: RowFileSpec) -> None:
    """Deletes the completion records, so that all row files are written again."""
    for record in spec.work.glob("*.arrayrecord.json"):
        record.unlink()


def _record_path(plan: RowFilePlan, spec: RowFileSpec) -> Path:
    return spec.work / f"{plan.name}.json"


def _documents(
    plan: RowFilePlan, runs: RunLengths, spec: RowFileSpec
) -> Iterator[tuple[np.ndarray, int]]:
    """Yields (tokens with eod, tokens of the prompt) in a stable order by key."""
    first_key = plan.first_prefix << 64 - _PREFIX_BITS
    end_key = plan.last_prefix + 1 << 64 - _PREFIX_BITS
    found: list[np.ndarray] = []
    tokens: list[np.ndarray] = []
    for unit in runs:
        if plan.split not in runs[unit]:
            continue
        stem, dtype = spec.work / f"{unit}.{plan.split}", spec.fields[0][1]
        index = np.asarray(np.memmap(f"{stem}.index", INDEX, mode="r"))
        start = 0
        for length in runs[unit][plan.split]:
            run = index[start : start + length]
            low = bisect.bisect_left(run["key"], first_key, key=int)
            high = bisect.bisect_left(run["key"], end_key, key=int)
            if low < high:  # contiguous in a run: one read
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


def _write_rows(path: Path, columns: Sequence[np.ndarray], plan: RowFilePlan, count: Count) -> None:
    row_bytes = sum(column.shape[1] * column.itemsize for column in columns)
    columns = [np.ascontiguousarray(column) for column in columns]
    try:
        # Uncompressed: zstd would save 40 % of the disk, but take half of the time of a build and
        # a quarter of a reader's.
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
        for position, record in enumerate(encode_rows(columns, plan.number)):
            writer.write(record)
            if position % _COUNT_ROWS == _COUNT_ROWS - 1:
                count(_COUNT_ROWS * row_bytes)
        writer.close()
    except RuntimeError as error:  # what ArrayRecord raises for every failure to write
        full = os.strerror(errno.ENOSPC)
        what = full if full in str(error) else str(error).splitlines()[0]
        raise OSError(errno.ENOSPC if what == full else errno.EIO, what, str(path)) from None
    count(len(columns[0]) % _COUNT_ROWS * row_bytes)
