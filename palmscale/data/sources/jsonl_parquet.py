"""Sources whose files hold many documents each: JSON lines, The Pile, Parquet. All are streamed."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from palmscale.data.sources import compression, paths
from palmscale.data.sources.records import RecordSource, not_utf8
from palmscale.data.sources.source import BadDocument, Document, SourceShard, TextSource
from palmscale.errors import UserError

_PARQUET_ROWS = 512


class _ManyDocuments(TextSource):
    """Base of the sources whose files hold many documents each."""

    field: str
    files: str | tuple[str, ...]

    def shards(self) -> list[SourceShard]:
        """Returns one shard per file, sorted by name."""
        return [
            SourceShard(
                name=file.name,
                path=file.path,
                bytes=file.bytes,
                stamp=file.stamp,
                has_many_documents=True,
            )
            for file in paths.find(self.files, self.field)
        ]


@dataclass(frozen=True, kw_only=True)
class Jsonl(_ManyDocuments, RecordSource):
    """Files with a JSON object on each line, plain or compressed (gzip, zstd, bzip2 or xz).

    Attributes:
        files: a glob pattern, or several; local paths or URLs such as gs://bucket/*.jsonl.zst.
    """

    field = "Jsonl.files"
    files: str | tuple[str, ...]

    def documents(self, shard: SourceShard) -> Iterator[Document | BadDocument]:
        """Yields one document per line that is not blank; stops where the file is damaged."""
        for location, line in _lines(shard):
            if isinstance(line, BadDocument):
                yield line
            elif line.strip():
                yield _document(line, location, self)


@dataclass(frozen=True, kw_only=True)
class Pile(_ManyDocuments):
    """The Pile's files (Gao et al. 2020): *.jsonl.zst with `text` and `meta.pile_set_name`.

    Attributes:
        files: a glob pattern, or several.
        sets: names of the sets to include, such as "ArXiv"; None: all.
    """

    field = "Pile.files"
    files: str | tuple[str, ...]
    sets: tuple[str, ...] | None = None

    def documents(self, shard: SourceShard) -> Iterator[Document | BadDocument]:
        """Yields the documents, grouped by set; those of excluded sets have no text."""
        lines = Jsonl(files=self.files, group_key="meta.pile_set_name")
        for document in lines.documents(shard):
            if isinstance(document, Document) and self.sets is not None:
                if document.group not in self.sets:
                    document = Document("")
            yield document


@dataclass(frozen=True, kw_only=True)
class Parquet(_ManyDocuments, RecordSource):
    """Parquet files, one document per row; needs pyarrow, the extra `hf`.

    Attributes:
        files: a glob pattern, or several.
    """

    field = "Parquet.files"
    files: str | tuple[str, ...]

    def documents(self, shard: SourceShard) -> Iterator[Document | BadDocument]:
        """Yields one document per row; stops where the file is damaged.

        Raises:
            UserError: pyarrow is not installed, or a column is missing.
        """
        try:
            import pyarrow
            from pyarrow import parquet
        except ModuleNotFoundError:
            raise UserError(
                f"reading {shard.path} needs pyarrow, which is not installed; install it with"
                " `pip install 'palmscale[hf]'`."
            ) from None
        number, rows = 0, None
        try:
            with paths.open_binary(shard.path) as stream:
                file = parquet.ParquetFile(stream, page_checksum_verification=True)
                self.check_columns(file.schema_arrow.names, shard.path)
                rows = file.metadata.num_rows
                for batch in file.iter_batches(_PARQUET_ROWS, columns=self.columns()):
                    for row in _rows(batch):
                        number += 1
                        location = f"{shard.path}:{number}"
                        if isinstance(row, UnicodeDecodeError):
                            yield not_utf8(location, row, "the text")
                        else:
                            yield self.from_record(row, location)
        except (OSError, UnicodeDecodeError, pyarrow.ArrowException) as error:
            yield broken(f"{shard.path}:{number + 1}", error, rows and rows - number)


def _document(line: bytes, location: str, source: Jsonl) -> Document | BadDocument:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return not_utf8(location, error, "the line")
    except json.JSONDecodeError as error:
        return _not_json(location, f"{error.msg} at column {error.colno}", source)
    except (ValueError, RecursionError):
        return _not_json(
            location, "a number has too many digits, or objects nest too deeply", source
        )
    document = source.from_record(record, location)
    if (b"\\ud" in line or b"\\uD" in line) and isinstance(document, Document):
        try:
            "".join(document).encode("utf-8")
        except UnicodeEncodeError as error:
            return BadDocument(
                location,
                f"character {error.start} of the text is an unpaired surrogate, which UTF-8 cannot"
                " represent; correct the line.",
            )
    return document


def _lines(shard: SourceShard) -> Iterator[tuple[str, bytes | BadDocument]]:
    """Yields (location, line) of each line, and a BadDocument if the rest cannot be read."""
    number, begun = 0, []  # parts of a line, joined once it is complete: a long one is copied once
    try:
        with paths.open_binary(shard.path) as stream:
            for chunk in compression.chunks(stream, shard.path):
                *lines, rest = chunk.split(b"\n")
                if lines:
                    lines[0] = b"".join([*begun, lines[0]])
                    begun = []
                for line in lines:
                    number += 1
                    yield f"{shard.path}:{number}", line
                begun.append(rest)
    except compression.Broken as error:
        yield "", broken(f"{shard.path}:{number + 1}", error)
        return
    if rest := b"".join(begun):
        yield f"{shard.path}:{number + 1}", rest


def _rows(batch: Any) -> list[dict[str, Any] | UnicodeDecodeError]:
    try:
        return batch.to_pylist()
    except UnicodeDecodeError as error:  # some row's; the error does not say which
        if len(batch) == 1:
            return [error]
        return [row for i in range(len(batch)) for row in _rows(batch.slice(i, 1))]


def broken(location: str, error: Exception, documents: int | None = None) -> BadDocument:
    """Returns the stand-in for the rest of a file that is damaged or truncated at `location`.

    `documents` is the number of documents in the rest; None: it is unknown.
    """
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return BadDocument(
        location,
        f"the file cannot be read from here on ({first}); fetch it again, or leave it out.",
        documents,
    )


def _not_json(location: str, why: str, source: Jsonl) -> BadDocument:
    return BadDocument(
        location,
        f'not JSON ({why}); expected an object with the key "{source.text_key}": correct the line.',
    )
