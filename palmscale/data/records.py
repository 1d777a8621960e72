"""Sources of files with many documents each: JSON lines, The Pile, Parquet. All are streamed."""

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import zstandard

from palmscale.data import paths
from palmscale.data.sources import BadDocument, Document, Shard, TextSource
from palmscale.errors import UserError

_PLAIN_BYTES = 1 << 20
_COMPRESSED_BYTES = 1 << 14  # decompressed at once: memory holds what they expand to
_WINDOW_BYTES = 1 << 31  # of `zstd --long=31`, the most; 128 MiB unless it is allowed
_PARQUET_ROWS = 512


class _Broken(Exception):
    """The rest of a file cannot be read; says why."""


class _Records(TextSource):
    """What sources of many documents a file share."""

    setting: str
    files: str | tuple[str, ...]

    def shards(self) -> list[Shard]:
        """Returns a shard for each file, by name."""
        patterns = (self.files,) if isinstance(self.files, str) else self.files
        return [
            Shard(
                name=file.name,
                path=file.path,
                bytes=file.bytes,
                stamp=file.stamp,
                holds_many=True,
            )
            for file in paths.find(patterns, self.setting)
        ]


@dataclass(frozen=True, kw_only=True)
class Jsonl(_Records):
    """Files with a JSON object on each line: .jsonl, .jsonl.gz or .jsonl.zst.

    Attributes:
        files: a glob, or several; local or a URL such as gs://bucket/*.jsonl.zst.
        text_key: of the document's text.
        prompt_key: of a text before it that is given and has no loss; None: none.
        group_key: of the name by which documents are counted apart; None: one group.
    """

    setting = "JSONL_FILES"
    files: str | tuple[str, ...]
    text_key: str = "text"
    prompt_key: str | None = None
    group_key: str | None = None

    def documents(self, shard: Shard) -> Iterator[Document | BadDocument]:
        """Yields a document for each line that is not blank; ends where the file is broken."""
        for place, line in _lines(shard):
            if isinstance(line, BadDocument):
                yield line
            elif line.strip():
                yield _document(line, place, self)


@dataclass(frozen=True, kw_only=True)
class Pile(_Records):
    """The Pile's files (Gao et al. 2020): *.jsonl.zst with `text` and `meta.pile_set_name`.

    Attributes:
        files: a glob, or several.
        sets: names of the sets to take, such as "ArXiv"; None: all.
    """

    setting = "PILE_FILES"
    files: str | tuple[str, ...]
    sets: tuple[str, ...] | None = None

    def documents(self, shard: Shard) -> Iterator[Document | BadDocument]:
        """Yields the documents in groups by set; those of other sets have no text."""
        lines = Jsonl(files=self.files, group_key="meta.pile_set_name")
        for document in lines.documents(shard):
            if isinstance(document, Document) and self.sets is not None:
                if document.group not in self.sets:
                    document = Document("")
            yield document


@dataclass(frozen=True, kw_only=True)
class Parquet(_Records):
    """Parquet files, a document a row; needs pyarrow, the extra `hf`.

    Attributes:
        files: a glob, or several.
        text_key: the column of the text.
        prompt_key: the column of a text before it that is given and has no loss; None: none.
        group_key: the column of the name by which documents are counted apart; None: one group.
    """

    setting = "PARQUET_FILES"
    files: str | tuple[str, ...]
    text_key: str = "text"
    prompt_key: str | None = None
    group_key: str | None = None

    def documents(self, shard: Shard) -> Iterator[Document | BadDocument]:
        """Yields a document for each row; ends where the file is broken."""
        try:
            import pyarrow
            from pyarrow import parquet
        except ModuleNotFoundError:
            raise UserError(
                f"{shard.path} needs pyarrow, which is not installed - it reads such files -"
                " install it with `pip install 'palmscale[hf]'`"
            ) from None
        keys = columns(self)
        number = 0
        try:
            with paths.open_binary(shard.path) as stream:
                file = parquet.ParquetFile(stream, page_checksum_verification=True)
                if missing := [key for key in keys if key not in file.schema_arrow.names]:
                    raise UserError(
                        f"{shard.path} has no column {missing[0]!r} (it has"
                        f" {', '.join(file.schema_arrow.names)}) - its text is needed - set"
                        " text_key, or correct the files"
                    )
                for batch in file.iter_batches(_PARQUET_ROWS, columns=keys):
                    for row in _rows(batch):
                        number += 1
                        place = f"{shard.path}:{number}"
                        if isinstance(row, UnicodeDecodeError):
                            yield _not_utf8(place, row, "the text")
                        else:
                            yield from_record(row, place, self)
        except (OSError, pyarrow.ArrowException) as error:
            yield broken(f"{shard.path}:{number + 1}", error)


def columns(keys: Any) -> list[str]:
    """Returns the columns that `text_key`, `prompt_key` and `group_key` of `keys` are in."""
    given = filter(None, (keys.text_key, keys.prompt_key, keys.group_key))
    return list(dict.fromkeys(key.partition(".")[0] for key in given))


def from_record(record: dict[str, Any], place: str, keys: Any) -> Document | BadDocument:
    """Returns the document of a record by `text_key`, `prompt_key` and `group_key` of `keys`.

    A dot in a key goes into the record: `meta.pile_set_name`. Bytes are taken to be UTF-8.
    """
    try:
        text = _value(record, keys.text_key)
        prompt = "" if keys.prompt_key is None else _value(record, keys.prompt_key)
        group = "" if keys.group_key is None else _value(record, keys.group_key)
    except UnicodeDecodeError as error:
        return _not_utf8(place, error, "the text")
    for key, value in ((keys.text_key, text), (keys.prompt_key, prompt)):
        if not isinstance(value, str):
            return BadDocument(
                place,
                f'no string under the key "{key}" - each document needs one - correct it, or name'
                " the key that has the text",
            )
    return Document(text, "" if group is None else str(group), prompt)


def _value(record: Any, key: str) -> Any:
    for part in key.split("."):
        record = record.get(part) if isinstance(record, dict) else None
    return record.decode("utf-8") if isinstance(record, bytes) else record


def _document(line: bytes, place: str, keys: Any) -> Document | BadDocument:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return _not_utf8(place, error, "the line")
    except json.JSONDecodeError as error:
        return _not_json(place, f"{error.msg} at column {error.colno}", keys)
    except (ValueError, RecursionError):
        return _not_json(place, "a number of thousands of digits, or lists thousands deep", keys)
    document = from_record(record, place, keys)
    if (b"\\ud" in line or b"\\uD" in line) and isinstance(document, Document):
        try:
            "".join(document).encode("utf-8")
        except UnicodeEncodeError as error:
            return BadDocument(
                place,
                f"the text has half of a surrogate pair at character {error.start}, which UTF-8"
                " cannot hold - text must be Unicode - correct the line",
            )
    return document


def _lines(shard: Shard) -> Iterator[tuple[str, bytes | BadDocument]]:
    """Yields (place, line) of each line, and a BadDocument where the rest cannot be read."""
    number, begun = 0, []  # joined when the line ends: a long one is copied once, not each time
    try:
        with paths.open_binary(shard.path) as stream:
            for chunk in _chunks(stream, shard.path):
                *lines, rest = chunk.split(b"\n")
                if lines:
                    lines[0] = b"".join([*begun, lines[0]])
                    begun = []
                for line in lines:
                    number += 1
                    yield f"{shard.path}:{number}", line
                begun.append(rest)
    except _Broken as error:
        yield "", broken(f"{shard.path}:{number + 1}", error)
        return
    if rest := b"".join(begun):
        yield f"{shard.path}:{number + 1}", rest


def _rows(batch: Any) -> list[dict[str, Any] | UnicodeDecodeError]:
    try:
        return batch.to_pylist()
    except UnicodeDecodeError as error:  # one row's, which none says
        if len(batch) == 1:
            return [error]
        return [row for i in range(len(batch)) for row in _rows(batch.slice(i, 1))]


def broken(place: str, error: Exception) -> BadDocument:
    """Returns what stands for the rest of a file that is damaged or cut off at `place`."""
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return BadDocument(
        place,
        f"the file cannot be read from here on ({first}) - a whole file is needed - fetch it again,"
        " or leave it out",
    )


def _not_json(place: str, why: str, keys: Any) -> BadDocument:
    return BadDocument(
        place,
        f'not JSON ({why}) - each line must be an object with the key "{keys.text_key}" - correct'
        " the line",
    )


def _not_utf8(place: str, error: UnicodeDecodeError, what: str) -> BadDocument:
    return BadDocument(
        place,
        f"byte {error.start} of {what} is not UTF-8 - text must be UTF-8 - convert the file or"
        " leave the document out",
    )


def _chunks(stream: BinaryIO, path: str) -> Iterator[bytes]:
    if path.endswith(".zst"):
        decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES)
        return _decompressed(stream, decompressor.decompressobj, zstandard.ZstdError)
    if path.endswith(".gz"):
        # gzip itself takes zeros at the end, as tapes leave them, for nothing.
        return _decompressed(stream, lambda: zlib.decompressobj(wbits=31), zlib.error, b"\0")
    return iter(lambda: stream.read(_PLAIN_BYTES), b"")


def _decompressed(
    stream: BinaryIO, begin: Any, error_type: type[Exception], padding: bytes = b""
) -> Iterator[bytes]:
    # Frame by frame, each to its end: the libraries' own streams take a cut file for a whole one.
    frame, is_after_frame = None, False
    while data := stream.read(_COMPRESSED_BYTES):
        while data:
            if frame is None:
                data = data.lstrip(padding) if is_after_frame else data
                if not data:
                    break
                frame = begin()
            try:
                yield frame.decompress(data)
            except (error_type, EOFError) as error:
                raise _Broken(f"damaged: {error}") from None
            data = b""
            if frame.eof:
                data, frame, is_after_frame = frame.unused_data, None, True
    if frame is not None:
        raise _Broken("it is cut off")
