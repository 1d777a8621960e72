"""The content of files that may be compressed: gzip, zstd, bzip2 or xz, known by their content."""

import bz2
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import zstandard

_PLAIN_BYTES = 1 << 20
_COMPRESSED_BYTES = 1 << 14  # decompressed at once: the result is held in memory
_WINDOW_BYTES = 1 << 31  # that of `zstd --long=31`, the maximum; the default is 128 MiB
_HEAD_BYTES = 16


class Broken(Exception):
    """The rest of a file cannot be read; the message is the reason."""


class _Format(NamedTuple):
    name: str
    suffixes: tuple[str, ...]
    heads: tuple[bytes, ...]  # with which a file begins, and no text does
    begin: Callable[[], Any]
    errors: tuple[type[Exception], ...]
    padding: bytes = b""


_FORMATS = (
    _Format(
        "zstd",
        (".zst", ".zstd"),
        # A frame, or a frame to be skipped, such as those that pzstd writes.
        (b"\x28\xb5\x2f\xfd", *(bytes([number]) + b"\x2a\x4d\x18" for number in range(80, 96))),
        lambda: zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES).decompressobj(),
        (zstandard.ZstdError,),
    ),
    _Format(
        "gzip",
        (".gz", ".gzip"),
        (b"\x1f\x8b",),
        lambda: zlib.decompressobj(wbits=31),
        (zlib.error,),
        b"\0",  # gzip ignores zeros at the end, which tapes leave
    ),
    _Format(
        "bzip2",
        (".bz2", ".bzip2"),
        tuple(
            b"BZh%d%s" % (n, what) for n in range(1, 10) for what in (b"1AY&SY", b"\x17rE8P\x90")
        ),
        bz2.BZ2Decompressor,
        (OSError, ValueError),
    ),
    _Format(
        "xz",
        (".xz",),
        (b"\xfd7zXZ\0",),
        lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ),
        (lzma.LZMAError,),
        b"\0",
    ),
)
_UNREADABLE = {b"PK\x03\x04": "zip", b"\x04\x22\x4d\x18": "lz4", b"7z\xbc\xaf": "7z"}
_TAR = re.compile(r"\.(tar|tgz)(\.\w+)?$")
_KNOWN = "gzip, zstd, bzip2 or xz"


def chunks(stream: BinaryIO, path: str) -> Iterator[bytes]:
    """Yields the content of a file from its beginning, decompressed.

    Raises:
        Broken: the file is damaged, truncated, or not in the format that its name says.
    """
    if _TAR.search(path.lower()):
        raise Broken("it is a tar archive; extract its files")
    head = stream.read(_HEAD_BYTES)
    suffix = os.path.splitext(path)[1].lower()
    named = next((kind for kind in _FORMATS if suffix in kind.suffixes), None)
    found = next((kind for kind in _FORMATS if head.startswith(kind.heads)), None)
    if found is not None:
        yield from _decompressed(stream, head, found)
    elif named is None:
        yield from _plain(stream, head)
    elif head:
        raise Broken(
            f"damaged: the name says {named.name}, but the content does not begin so; if it is not"
            " compressed, rename the file"
        )
    else:
        raise Broken("truncated: the file is empty")


def _plain(stream: BinaryIO, head: bytes) -> Iterator[bytes]:
    for magic, name in _UNREADABLE.items():
        if head.startswith(magic):
            raise Broken(f"it is in the format {name}; convert it to {_KNOWN}")
    while head:
        yield head
        head = stream.read(_PLAIN_BYTES)


def _decompressed(stream: BinaryIO, data: bytes, kind: _Format) -> Iterator[bytes]:
    # Frame by frame, each to its end: the libraries' own streams accept a truncated file.
    frame, is_after_frame = None, False
    while data:
        while data:
            if frame is None:
                data = data.lstrip(kind.padding) if is_after_frame else data
                if not data:
                    break
                frame = kind.begin()
            try:
                yield frame.decompress(data)
            except (*kind.errors, EOFError) as error:
                raise Broken(f"damaged: {error}") from None
            data = b""
            if frame.eof:
                data, frame, is_after_frame = frame.unused_data, None, True
        data = stream.read(_COMPRESSED_BYTES)
    if frame is not None:
        raise Broken("truncated")
