"""Building a row cache: units are spilled, shards of rows written from them, and a manifest last.

Units and shards are worked on in any order, by any number of processes, and again after a kill;
each is done when its record is there. The rows are a pure function of the documents, the seed and
the sequence length, so none of that leaves a trace in them.
"""

import contextlib
import functools
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from palmscale.data import spill as spilling
from palmscale.data.pack import CONCATENATE, SEGMENTS, fields_of
from palmscale.data.processes import Executor, LocalProcesses
from palmscale.data.rows import FORMAT, MANIFEST, RowCache, digest_of, rows_digest
from palmscale.data.shards import (
    Runs,
    ShardPlan,
    Writing,
    forget_shards,
    plan_shards,
    write_shard,
    written_shard,
)
from palmscale.data.sources import SPLITS, TRAIN, Corpus, Shard
from palmscale.data.spill import Spilling, Unit, add_counts, spill, write_record
from palmscale.data.vocab import Vocabulary
from palmscale.errors import UserError

Progress = Callable[[str, int, int | None], None]  # (of what, bytes done, of how many if known)

_UNIT_BYTES = 1 << 25  # small files are read together
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
) -> RowCache:
    """Returns the cache it builds in `directory`, which appears whole or not at all.

    What a killed build of the same directory had finished is kept. Of two builders at once the
    second waits and takes the first one's.

    Raises UserError when training would have no row, or the disk is full or not writable.
    """
    directory = Path(directory)
    fields_of(packing, vocabulary.size)
    if sequence_length < 1:
        raise UserError(
            f"SEQUENCE_LENGTH={sequence_length} - a row needs at least one token - use for example"
            " 2048"
        )
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with _alone(directory):
            if not (directory / MANIFEST).exists():
                partial = directory.with_name(f".{directory.name}.partial")
                work = directory.with_name(f".{directory.name}.work")
                for folder in (partial, work):
                    folder.mkdir(exist_ok=True)
                vocabulary = corpus.source.vocabulary(vocabulary)
                common = Spilling(
                    corpus=corpus,
                    shards=tuple(corpus.source.shards()),
                    vocabulary=vocabulary,
                    seed=seed,
                    work=work,
                )
                writing = Writing(
                    directory=partial,
                    work=work,
                    vocabulary_size=vocabulary.size,
                    pad_id=vocabulary.pad_id,
                    sequence_length=sequence_length,
                    packing=packing,
                )
                if not (partial / MANIFEST).exists():
                    _build(common, writing, executor, progress)
                shutil.rmtree(work)
                partial.rename(directory)
    except OSError as error:
        raise UserError(
            f"the cache {directory} cannot be written ({error.strerror or error}) - needed is a"
            " directory with room - correct CACHE_DIRECTORY"
        ) from error
    return RowCache.open(directory)


def _build(common: Spilling, writing: Writing, executor: Executor, progress: Progress) -> None:
    units = _units(common.shards)
    records = _spill_all(units, common, writing, executor, progress)
    totals = {split: _total(records.values(), split) for split in SPLITS}
    _check_documents(common, writing, totals)
    runs = {
        name: {split: entry["runs"] for split, entry in record["splits"].items()}
        for name, record in records.items()
    }
    plans = plan_shards(runs, writing)
    shards = _write_all(plans, runs, writing, executor, progress)
    if not sum(shard["rows"] for shard in shards[TRAIN]):
        raise UserError(
            f"no example fits into SEQUENCE_LENGTH={writing.sequence_length:,}: the prompt of each"
            " is as long - a row must hold some of the target - make SEQUENCE_LENGTH larger"
        )
    common.vocabulary.save(writing.directory)
    manifest = {
        "format": FORMAT,
        "corpus": common.corpus.definition(),
        "sources": [source for unit in units for source in records[unit.name]["sources"]],
        "bad_documents": {
            "count": sum(record["bad_documents"]["count"] for record in records.values()),
            "first": [
                place for unit in units for place in records[unit.name]["bad_documents"]["first"]
            ][: spilling.NAMED_BAD_DOCUMENTS],
        },
        "vocabulary": common.vocabulary.description(),
        "sequence_length": writing.sequence_length,
        "packing": writing.packing,
        "fields": [[name, dtype.str] for name, dtype in writing.fields],
        "seed": common.seed,
        "splits": {split: _split_entry(totals[split], shards[split], writing) for split in SPLITS},
    }
    manifest["digest"] = rows_digest(manifest)
    write_record(writing.directory / MANIFEST, manifest)


def _units(shards: Sequence[Shard]) -> list[Unit]:
    groups: list[list[Shard]] = []
    held = _UNIT_BYTES
    for shard in shards:
        if held >= _UNIT_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(shard)
        held += shard.bytes or _UNIT_BYTES
    return [Unit(number, tuple(group)) for number, group in enumerate(groups)]


def _spill_all(
    units: Sequence[Unit],
    common: Spilling,
    writing: Writing,
    executor: Executor,
    progress: Progress,
) -> dict[str, dict[str, Any]]:
    """Returns each unit's record by its name."""
    stored = {unit.name: sum(shard.bytes for shard in unit.shards) for unit in units}
    records, done = {}, 0
    for unit in units:
        if record := spilling.finished(unit, common.work):
            records[unit.name] = record
            done += _text_bytes(record)

    def count(more: int) -> None:
        nonlocal done
        done += more
        # Compressed files hold more text than bytes; how much more, the finished units tell.
        read = sum(stored[name] for name in records)
        text = sum(map(_text_bytes, records.values()))
        total = int(sum(stored.values()) * text / read) if read else None
        progress(SPILLING, done, total and max(total, done))

    pending = [unit for unit in units if unit.name not in records]
    if pending:
        forget_shards(writing)
    for record in executor.each(functools.partial(spill, spilling=common), pending, count):
        records[record["unit"]] = record
    return {unit.name: records[unit.name] for unit in units}


def _write_all(
    plans: Sequence[ShardPlan],
    runs: Runs,
    writing: Writing,
    executor: Executor,
    progress: Progress,
) -> dict[str, list[dict[str, Any]]]:
    """Returns each split's shards as the manifest lists them."""
    total = sum(plan.tokens for plan in plans) * writing.token_bytes
    written = {plan.name: entry for plan in plans if (entry := written_shard(plan, writing))}
    done = sum(plan.tokens for plan in plans if plan.name in written) * writing.token_bytes

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(WRITING, done, total)

    pending = [plan for plan in plans if plan.name not in written]
    function = functools.partial(write_shard, runs=runs, writing=writing)
    for entry in executor.each(function, pending, count):
        written[entry["name"]] = entry
    return {
        split: [written[plan.name] for plan in plans if plan.split == split] for split in SPLITS
    }


def _split_entry(
    totals: dict[str, Any], shards: list[dict[str, Any]], writing: Writing
) -> dict[str, Any]:
    rows = sum(shard["rows"] for shard in shards)
    entry = {"rows": rows, "tokens": sum(shard.pop("tokens") for shard in shards), **totals}
    given = entry.pop("given_tokens")
    if writing.packing == CONCATENATE:
        entry["dropped_tail_tokens"] = given - entry["tokens"]
    else:
        for name in ("truncated", "dropped"):
            entry[f"{name}_documents"] = sum(shard.pop(name) for shard in shards)
    entry["rows_sha256"] = digest_of([shard.pop("rows_sha256") for shard in shards])
    return entry | {"shards": shards}


def _total(records: Sequence[dict[str, Any]], split: str) -> dict[str, Any]:
    """Returns what all units together know of a split's documents."""
    total = {"documents": 0, "given_tokens": 0, "utf8_bytes": 0, "prompts": 0}
    groups: dict[str, list[int]] = {}
    lengths: Any = []
    for record in records:
        if split in record["splits"]:
            stored = record["splits"][split]
            total["given_tokens"] += stored["tokens"]
            for name in ("documents", "utf8_bytes", "prompts"):
                total[name] += stored[name]
            lengths = add_counts(lengths, stored["length_histogram"])
            for name, counts in stored["groups"].items():
                groups[name] = [a + b for a, b in zip(groups.get(name, [0, 0, 0]), counts)]
    total["groups"] = {
        name: dict(zip(("documents", "tokens", "utf8_bytes"), counts))
        for name, counts in sorted(groups.items())
    }
    return total | {"length_histogram": [int(n) for n in lengths]}


def _check_documents(common: Spilling, writing: Writing, totals: dict[str, Any]) -> None:
    given = totals[TRAIN]["given_tokens"]
    if not given:
        raise UserError(
            f"the corpus is empty: none of its {len(common.shards)} files has any text to train on"
            f" - at least some is needed - correct {common.corpus.source.setting}"
        )
    if writing.packing == CONCATENATE and given < writing.sequence_length:
        raise UserError(
            f"the text to train on has {given:,} tokens, fewer than one row of"
            f" SEQUENCE_LENGTH={writing.sequence_length:,} - add text, or make SEQUENCE_LENGTH"
            " smaller"
        )
    if writing.packing == CONCATENATE and any(total["prompts"] for total in totals.values()):
        raise UserError(
            "the documents have prompts, whose tokens have no loss, and PACKING='concatenate'"
            f" treats all tokens alike - write PACKING={SEGMENTS!r}"
        )


def _text_bytes(record: dict[str, Any]) -> int:
    return sum(split["utf8_bytes"] for split in record["splits"].values())


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keeps a second builder of the same cache waiting, where the file system has locks."""
    try:
        import fcntl
    except ImportError:  # not POSIX
        yield
        return
    with open(directory.parent / f".{directory.name}.lock", "w") as lock:
        with contextlib.suppress(OSError):  # a file system without locks: the rows are the same
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
