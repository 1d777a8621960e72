"""Building a row cache: documents are spilled, merged into row files, and listed in a manifest.

Work units and row files are processed in any order by any number of processes, and each is complete
once its record exists, so a killed build continues where it stopped. The rows are a pure function
of the documents, the seed and the sequence length.
"""

import contextlib
import functools
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from palmscale.data.build import spill as spilling
from palmscale.data.build.processes import Executor, LocalProcesses
from palmscale.data.build.row_files import (
    RowFilePlan,
    RowFileSpec,
    RunLengths,
    forget_row_files,
    plan_row_files,
    write_row_file,
    written_row_file,
)
from palmscale.data.build.spill import SpillSpec, WorkUnit, add_counts, spill, write_record
from palmscale.data.pack import CONCATENATE, SEGMENTS, fields_of
from palmscale.data.row_cache import FORMAT, MANIFEST, RowCache, digest_of, rows_digest
from palmscale.data.sources.corpus import Corpus
from palmscale.data.sources.source import SPLITS, TRAIN, SourceShard
from palmscale.data.vocabulary import Vocabulary
from palmscale.errors import UserError
from palmscale.observe import log

Progress = Callable[[str, int, int | None], None]  # (activity, bytes done, bytes in all if known)

_LOCK_SECONDS = 0.5
_UNIT_BYTES = 1 << 25  # small files are combined into a work unit of this size
SPILLING, WRITING = "Reading documents", "Writing rows"


def build_cache(
    *,
    corpus: Corpus,
    vocabulary: Vocabulary,
    directory: str | Path,
    sequence_length: int,
    seed: int,
    packing: str = CONCATENATE,
    executor: Executor = LocalProcesses(1),
    progress: Progress = lambda what, done, total: None,
    waiting: Callable[[], None] = lambda: None,
) -> RowCache:
    """Builds a cache in `directory`, which appears complete or not at all, and returns it.

    What a killed build of the same directory completed is kept. A concurrent builder waits and
    reuses the result; it calls `waiting` about once a second.

    Raises:
        UserError: there would be no row to train on, a document is bad, or the disk is full or not
            writable.
    """
    directory = Path(directory)
    fields_of(packing, vocabulary.size)
    if sequence_length < 1:
        raise UserError(
            f"Data.sequence_length={sequence_length} is out of range; expected at least 1, for"
            " example 2048."
        )
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(directory, waiting):
            if not (directory / MANIFEST).exists():
                partial = directory.with_name(f".{directory.name}.partial")
                work = directory.with_name(f".{directory.name}.work")
                for folder in (partial, work):
                    folder.mkdir(exist_ok=True)
                vocabulary = corpus.source.vocabulary(vocabulary)
                shards = corpus.source.shards()
                documents = SpillSpec(
                    corpus=corpus,
                    split_of=corpus.split_of(shards),
                    vocabulary=vocabulary,
                    seed=seed,
                    work=work,
                )
                files = RowFileSpec(
                    directory=partial,
                    work=work,
                    vocabulary_size=vocabulary.size,
                    pad_id=vocabulary.pad_id,
                    sequence_length=sequence_length,
                    packing=packing,
                )
                if not (partial / MANIFEST).exists():
                    _build(shards, documents, files, executor, progress)
                shutil.rmtree(work)
                partial.rename(directory)
    except OSError as error:
        raise UserError(
            f"the cache {directory} cannot be written ({error.strerror or error}); free space"
            " there, or change Data.cache_directory."
        ) from error
    return RowCache.open(directory)


def _build(
    shards: Sequence[SourceShard],
    documents: SpillSpec,
    files: RowFileSpec,
    executor: Executor,
    progress: Progress,
) -> None:
    units = _units(shards)
    records = _spill_all(units, documents, files, executor, progress)
    totals = {split: _total(records.values(), split) for split in SPLITS}
    bad = [place for unit in units for place in records[unit.name]["bad_documents"]["first"]]
    _check_documents(shards, documents, files, totals, bad)
    runs = {
        name: {split: entry["runs"] for split, entry in record["splits"].items()}
        for name, record in records.items()
    }
    plans = plan_row_files(runs, files)
    entries = _write_all(plans, runs, files, executor, progress)
    if not sum(entry["rows"] for entry in entries[TRAIN]):
        raise UserError(
            f"Data.sequence_length={files.sequence_length} is too small: the prompt of every"
            " example fills a row; increase it."
        )
    documents.vocabulary.save(files.directory)
    manifest = {
        "format": FORMAT,
        "corpus": documents.corpus.definition(),
        "sources": [source for unit in units for source in records[unit.name]["sources"]],
        "bad_documents": {
            # Documents, and damaged files whose rest has an unknown number of documents.
            **{
                what: sum(record["bad_documents"][what] for record in records.values())
                for what in ("count", "rests")
            },
            "first": bad[: spilling.NAMED_BAD_DOCUMENTS],
        },
        "vocabulary": documents.vocabulary.description(),
        "sequence_length": files.sequence_length,
        "packing": files.packing,
        "fields": [[name, dtype.str] for name, dtype in files.fields],
        "seed": documents.seed,
        "splits": {split: _split_entry(totals[split], entries[split], files) for split in SPLITS},
    }
    manifest["digest"] = rows_digest(manifest)
    write_record(files.directory / MANIFEST, manifest)


def _units(shards: Sequence[SourceShard]) -> list[WorkUnit]:
    groups: list[list[SourceShard]] = []
    held = _UNIT_BYTES
    for shard in shards:
        if held >= _UNIT_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(shard)
        held += shard.bytes or _UNIT_BYTES
    return [WorkUnit(number, tuple(group)) for number, group in enumerate(groups)]


def _spill_all(
    units: Sequence[WorkUnit],
    documents: SpillSpec,
    files: RowFileSpec,
    executor: Executor,
    progress: Progress,
) -> dict[str, dict[str, Any]]:
    """Returns the records of all units by name."""
    stored = {unit.name: sum(shard.bytes for shard in unit.shards) for unit in units}
    records, done = {}, 0
    for unit in units:
        if record := spilling.finished(unit, documents):
            records[unit.name] = record
            done += _text_bytes(record)

    def count(more: int) -> None:
        nonlocal done
        done += more
        # The text of compressed files is longer than the files; finished units tell the ratio.
        read = sum(stored[name] for name in records)
        text = sum(map(_text_bytes, records.values()))
        total = int(sum(stored.values()) * text / read) if read else None
        progress(SPILLING, done, total and max(total, done))

    pending = [unit for unit in units if unit.name not in records]
    if pending:
        forget_row_files(files)
    for record in executor.each(functools.partial(spill, spec=documents), pending, count):
        records[record["unit"]] = record
    return {unit.name: records[unit.name] for unit in units}


def _write_all(
    plans: Sequence[RowFilePlan],
    runs: RunLengths,
    files: RowFileSpec,
    executor: Executor,
    progress: Progress,
) -> dict[str, list[dict[str, Any]]]:
    """Returns the entries of each split's row files, as the manifest lists them."""
    total = sum(plan.tokens for plan in plans) * files.token_bytes
    written = {plan.name: entry for plan in plans if (entry := written_row_file(plan, files))}
    done = sum(plan.tokens for plan in plans if plan.name in written) * files.token_bytes

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(WRITING, done, total)

    pending = [plan for plan in plans if plan.name not in written]
    function = functools.partial(write_row_file, runs=runs, spec=files)
    for entry in executor.each(function, pending, count):
        written[entry["name"]] = entry
    return {
        split: [written[plan.name] for plan in plans if plan.split == split] for split in SPLITS
    }


def _split_entry(
    totals: dict[str, Any], entries: list[dict[str, Any]], files: RowFileSpec
) -> dict[str, Any]:
    rows = sum(file["rows"] for file in entries)
    entry = {"rows": rows, "tokens": sum(file.pop("tokens") for file in entries), **totals}
    given, completions = entry.pop("given_tokens"), entry.pop("completions")
    if files.packing == CONCATENATE:
        entry["dropped_tail_tokens"] = given - entry["tokens"]
    else:
        for name in ("truncated", "dropped"):
            entry[f"{name}_documents"] = sum(file.pop(name) for file in entries)
        entry["completions"] = dict(zip(("tokens", "utf8_bytes"), completions))
    entry["rows_sha256"] = digest_of([file.pop("rows_sha256") for file in entries])
    return entry | {"shards": entries}


def _total(records: Sequence[dict[str, Any]], split: str) -> dict[str, Any]:
    """Returns the sums of a split's counts over all units."""
    total = {"documents": 0, "given_tokens": 0, "utf8_bytes": 0, "prompts": 0}
    groups: dict[str, list[int]] = {}
    completions = [0, 0]
    lengths: Any = []
    for record in records:
        if split in record["splits"]:
            stored = record["splits"][split]
            total["given_tokens"] += stored["tokens"]
            for name in ("documents", "utf8_bytes", "prompts"):
                total[name] += stored[name]
            completions = [a + b for a, b in zip(completions, stored["completions"])]
            lengths = add_counts(lengths, stored["length_histogram"])
            for name, counts in stored["groups"].items():
                groups[name] = [a + b for a, b in zip(groups.get(name, [0, 0, 0]), counts)]
    total["groups"] = {
        name: dict(zip(("documents", "tokens", "utf8_bytes"), counts))
        for name, counts in sorted(groups.items())
    }
    total["completions"] = completions
    return total | {"length_histogram": [int(n) for n in lengths]}


def _check_documents(
    shards: Sequence[SourceShard],
    documents: SpillSpec,
    files: RowFileSpec,
    totals: dict[str, Any],
    bad: Sequence[str],
) -> None:
    given = totals[TRAIN]["given_tokens"]
    if not given:
        skipped = f" Skipped: {bad[0]}" if bad else ""
        raise UserError(
            f"the corpus is empty: none of its {len(shards)} files has text to train on;"
            f" correct {documents.corpus.source.field}.{skipped}"
        )
    if files.packing == CONCATENATE and given < files.sequence_length:
        raise UserError(
            f"the text to train on has {given:,} tokens, less than one row of"
            f" Data.sequence_length={files.sequence_length}; add text, or decrease it."
        )
    if files.packing == CONCATENATE and any(total["prompts"] for total in totals.values()):
        raise UserError(
            f"Data.packing={CONCATENATE!r} does not support prompts, whose tokens have no loss; use"
            f" Data.packing={SEGMENTS!r}."
        )


def _text_bytes(record: dict[str, Any]) -> int:
    return sum(split["utf8_bytes"] for split in record["splits"].values())


@contextlib.contextmanager
def exclusive(directory: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Makes a second builder of the same cache say so and wait, if the file system has locks."""
    try:
        import fcntl
    except ImportError:  # not POSIX
        yield
        return
    with open(directory.parent / f".{directory.name}.lock", "w") as lock:
        with contextlib.suppress(OSError):  # no locks: both builders write the same rows
            is_told = False
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not is_told:
                        log.say(f"Waiting for another process, which is writing {directory}.")
                        is_told = True
                    waiting()
                    time.sleep(_LOCK_SECONDS)
        yield
