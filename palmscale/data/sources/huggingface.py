"""Hugging Face datasets as a source, from the hub or a local folder. Needs the extra `hf`."""

import functools
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palmscale.data.sources import local_files, split_names
from palmscale.data.sources.jsonl_parquet import broken
from palmscale.data.sources.records import RecordSource
from palmscale.data.sources.source import (
    TRAIN,
    VALIDATION,
    BadDocument,
    Document,
    SourceShard,
)
from palmscale.errors import UserError
from palmscale.storage.place import local_path

_SHARD_ROWS = 100_000
_FORMATS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".arrow": "arrow"}
_COMPRESSED = re.compile(r"\.(gz|zst|bz2|xz)$")


@dataclass(frozen=True, kw_only=True)
class HuggingFace(RecordSource):
    """A dataset of the Hugging Face `datasets` library.

    Of its splits, "train" is trained on, and "validation" (or "valid", "val", "dev", "eval") is
    held out; no other split is read. In a folder of files, the names of files and folders say the
    split; see `split_names.by_split`.

    Attributes:
        dataset: a name on the hub, a folder of JSON, Parquet or Arrow files, or a folder that
            `save_to_disk` wrote.
        config: of the dataset; None: its default.
        revision: of the repository on the hub; set it to make the run reproducible.
        streaming: whether to read without first downloading the dataset to the local disk.
    """

    field = "HuggingFace.dataset"
    dataset: str
    config: str | None = None
    revision: str | None = None
    streaming: bool = False

    def shards(self) -> list[SourceShard]:
        """Returns the dataset's files when streaming, and ranges of its rows otherwise.

        Raises:
            UserError: the dataset cannot be loaded or has no split "train".
        """
        splits, stamp = _load(self)
        if TRAIN not in splits:
            raise UserError(
                f"{self.field}={self.dataset!r} has no split 'train' (it has {', '.join(splits)});"
                " choose another dataset or HuggingFace.config."
            )
        both = VALIDATION in splits
        shards = []
        for name in (TRAIN, VALIDATION) if both else (TRAIN,):
            part = splits[name]
            rows = None if self.streaming else len(part)
            count = part.num_shards if rows is None else -(-rows // _SHARD_ROWS)
            shards += [
                SourceShard(
                    name=f"{name}-{number:05d}-of-{count:05d}",
                    split=name if both else None,
                    bytes=0 if rows is None else _stored_bytes(part, count),
                    stamp=stamp,
                    has_many_documents=True,
                )
                for number in range(count)
            ]
        return shards

    def documents(self, shard: SourceShard) -> Iterator[Document | BadDocument]:
        """Yields one document per row.

        Raises:
            UserError: a column is missing.
        """
        split, number, _, count = shard.name.split("-")
        part = _load(self)[0][split]
        if part.column_names:
            self.check_columns(part.column_names, f"{self.field}={self.dataset!r}")
            part = part.select_columns(self.columns())
        part = part.shard(num_shards=int(count), index=int(number))
        row = 0
        try:
            for row, record in enumerate(part, 1):
                yield self.from_record(record, f"{self.dataset}/{shard.name}:{row}")
        except ValueError as error:  # what Arrow raises for a damaged file
            rest = None if self.streaming else len(part) - row
            yield broken(f"{self.dataset}/{shard.name}:{row + 1}", error, rest)
        except OSError as error:
            raise RuntimeError(
                f"reading {self.dataset!r} failed in {shard.name} ({error}); start again: finished"
                " work is kept."
            ) from error


@functools.lru_cache(maxsize=4)
def _load(source: HuggingFace) -> tuple[dict[str, Any], str]:
    """Returns the splits by name, and a stamp that changes when their data does."""
    try:
        import datasets
    except ModuleNotFoundError:
        raise UserError(
            f"{source.field}={source.dataset!r} needs the library `datasets`, which is not"
            " installed; install it with `pip install 'palmscale[hf]'`."
        ) from None
    datasets.disable_progress_bars()
    folder = local_path(source.dataset)
    try:
        if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
            loaded = datasets.load_from_disk(str(folder))
            splits = dict(loaded) if isinstance(loaded, dict) else {TRAIN: loaded}
            return split_names.renamed(splits), "-".join(
                part._fingerprint for part in splits.values()
            )
        name, files = source.dataset, None
        if folder.is_dir():
            name = str(folder)
            found = _files(folder)
            if len(set(found.values())) == 1:
                (name,), files = set(found.values()), _by_split(folder, found)
                if TRAIN not in files:
                    raise FileNotFoundError("it has files to evaluate on, but none to train on")
        builder = datasets.load_dataset_builder(
            name, source.config, data_files=files, revision=source.revision
        )
        # The hash is that of the commit for the hub, but that of the library's code for files.
        stamp = builder.config_id if files else f"{builder.config_id}-{builder.hash}"
        if source.streaming:
            return split_names.renamed(builder.as_streaming_dataset()), stamp
        builder.download_and_prepare()
        return split_names.renamed(builder.as_dataset()), stamp
    except Exception as error:  # the library's exceptions have no common base class
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{source.field}={source.dataset!r} cannot be loaded ({first}); expected a dataset on"
            " a hub that this machine can reach, or a folder of JSON, Parquet or Arrow files."
        ) from None


def _files(folder: Path) -> dict[str, str]:
    """Returns the format of each data file below a folder, by its relative path, sorted."""
    names = [
        os.path.relpath(os.path.join(below, name), folder)
        for below, names in local_files.walk(str(folder))
        for name in names
    ]
    formats = {name: _FORMATS.get(Path(_COMPRESSED.sub("", name)).suffix) for name in names}
    return {name: kind for name, kind in sorted(formats.items()) if kind}


def _by_split(folder: Path, names: Iterable[str]) -> dict[str, list[str]]:
    splits = split_names.by_split(names)
    return {
        split: [str(folder / name) for name in splits[split]]
        for split in (TRAIN, VALIDATION)
        if split in splits
    }


def _stored_bytes(part: Any, count: int) -> int:
    return (part.data.nbytes or 0) // max(1, count)
