"""A corpus: a source of documents, and which of them are held out for evaluation."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from palmscale.data.sources.huggingface import HuggingFace
from palmscale.data.sources.jsonl_parquet import Jsonl, Parquet, Pile
from palmscale.data.sources.seqio_tasks import SeqioTask, Tfds
from palmscale.data.sources.source import TRAIN, VALIDATION, Source, SourceShard
from palmscale.data.sources.text_files import SourceDirectories, StandardLibrary, TextFiles
from palmscale.errors import UserError

FAIL, SKIP = "fail", "skip"

Files = str | tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Documents to train on, the fraction to hold out, and what to do with bad documents.

    Whole units are held out, so that training never sees the rest of one. A unit is a file, or a
    top-level package of source code. Units are taken in the order of the sha256 of their names
    until `held_out_fraction` of the bytes is reached. If the source is a single file of many
    documents, each document is held out by the sha256 of its own name. A single document is never
    held out. A source that has a split "validation" keeps it.

    Attributes:
        source: where the documents come from.
        held_out_fraction: of the text, for evaluation: at least 0 and below 1.
        on_bad_document: `fail`; or `skip`, which counts them in the manifest and names the first.

    Raises:
        UserError: a field is out of range.
    """

    source: Source
    held_out_fraction: float = 0.05
    on_bad_document: str = FAIL

    def __post_init__(self) -> None:
        if not 0 <= self.held_out_fraction < 1:
            raise UserError(
                f"Corpus.held_out_fraction={self.held_out_fraction} is out of range; expected at"
                " least 0 and below 1, for example 0.05."
            )
        if self.on_bad_document not in (FAIL, SKIP):
            raise UserError(
                f"Corpus.on_bad_document={self.on_bad_document!r} is unknown; use {FAIL!r} or"
                f" {SKIP!r}."
            )

    def definition(self) -> dict[str, Any]:
        """Returns the fields that determine the documents, ready for JSON."""
        fields = {key: value for key, value in asdict(self.source).items() if value}
        return {
            "source": {"class": type(self.source).__name__, **fields},
            "held_out_fraction": self.held_out_fraction,
            "on_bad_document": self.on_bad_document,
        }

    def split_of(self, shards: Iterable[SourceShard]) -> Callable[[SourceShard, int], str]:
        """Returns the function from (shard, number of a document in it) to the split's name.

        `shards` are all shards of the source: which units are held out depends on all of them.
        """
        shards = list(shards)
        unassigned = [shard for shard in shards if shard.split is None]
        if len(unassigned) == 1 and unassigned[0].has_many_documents:
            return lambda shard, number: shard.split or self._split_of_document(shard, number)
        sizes: dict[str, int] = {}
        for shard in unassigned:
            unit = shard.holdout_unit or shard.name
            sizes[unit] = sizes.get(unit, 0) + shard.bytes
        held_out = _held_out_units(sizes, self.held_out_fraction)
        splits = {
            shard.name: shard.split
            or (VALIDATION if (shard.holdout_unit or shard.name) in held_out else TRAIN)
            for shard in shards
        }
        return lambda shard, number: splits[shard.name]

    def _split_of_document(self, shard: SourceShard, number: int) -> str:
        name = f"{shard.name}:{number}"
        fraction = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64
        return VALIDATION if fraction < self.held_out_fraction else TRAIN


def _held_out_units(sizes: dict[str, int], fraction: float) -> set[str]:
    if len(sizes) < 2 or not fraction:
        return set()
    wanted_bytes, held_bytes, units = fraction * sum(sizes.values()), 0, set()
    by_hash = sorted(sizes, key=lambda name: hashlib.sha256(name.encode()).digest())
    for unit in by_hash[:-1]:  # at least one unit always remains for training
        if units and held_bytes >= wanted_bytes:
            break
        units.add(unit)
        held_bytes += sizes[unit]
    return units


def one_of(
    *,
    text_files: Files | None = None,
    jsonl_files: Files | None = None,
    pile_files: Files | None = None,
    parquet_files: Files | None = None,
    hf_dataset: str | None = None,
    tfds_dataset: str | None = None,
    source_directories: Files | None = None,
    mixture_or_task: str | None = None,
) -> Source:
    """Returns the one source that is given, or Python's standard library if none is.

    Args:
        text_files: UTF-8 files, one document each: a glob pattern, or several.
        jsonl_files: JSON lines, one document each, under the key `text`: a pattern, or several.
        pile_files: The Pile's files, counted by set: a pattern, or several.
        parquet_files: Parquet, one document per row, in the column `text`: a pattern, or several.
        hf_dataset: a Hugging Face data set: a name on the hub, or a local folder.
        tfds_dataset: a prepared TensorFlow Datasets data set, such as `c4/en:3.0.1`.
        source_directories: folders whose `.py` files are read, tests apart.
        mixture_or_task: a SeqIO Task or Mixture, by its registered name.

    Raises:
        UserError: more than one is given.
    """
    choices = {
        "text_files": (text_files, lambda value: TextFiles(files=value)),
        "jsonl_files": (jsonl_files, lambda value: Jsonl(files=value)),
        "pile_files": (pile_files, lambda value: Pile(files=value)),
        "parquet_files": (parquet_files, lambda value: Parquet(files=value)),
        "hf_dataset": (hf_dataset, lambda value: HuggingFace(dataset=value)),
        "tfds_dataset": (tfds_dataset, lambda value: Tfds(dataset=value)),
        "source_directories": (
            source_directories,
            lambda value: SourceDirectories(directories=value),
        ),
        "mixture_or_task": (mixture_or_task, lambda value: SeqioTask(mixture_or_task=value)),
    }
    given = [(name, value, make) for name, (value, make) in choices.items() if value]
    if len(given) > 1:
        names = " and ".join(f"one_of.{name}" for name, *_ in given)
        raise UserError(f"{names} are all set; a corpus has one source: keep one of them.")
    for _, value, make in given:
        return make(value)
    return StandardLibrary()
