"""Files by path or URL, local or in an object store such as gs://, through fsspec."""

import concurrent.futures
import hashlib
import io
import os
import posixpath
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from palmscale.errors import UserError

# What object stores report about a file; the first that is present changes with the content.
_CHECKSUMS = ("md5Hash", "crc32c", "etag", "ETag")
_ANSWER_SECONDS = 10  # for the first answer of an object store; its library retries for minutes


@dataclass(frozen=True, order=True)
class FoundFile:
    """A file that matches a pattern.

    Attributes:
        name: relative to the deepest folder that all found files share.
        path: path or URL.
        bytes: stored size.
        stamp: changes when the file does: a checksum or a modification time.
    """

    name: str
    path: str
    bytes: int
    stamp: str


def find(patterns: str | Sequence[str], field: str) -> list[FoundFile]:
    """Returns the files that match any of the glob patterns, sorted by name; `**` spans folders.

    Raises:
        UserError: a pattern matches no file; the message says that `field` holds it.
    """
    found: dict[str, FoundFile] = {}
    for pattern in (patterns,) if isinstance(patterns, str) else patterns:
        _check_answers(pattern)
        system, root = _system(pattern)
        try:
            details = system.glob(root, detail=True)
        except OSError as error:
            raise _unreadable(pattern, error) from None
        files = {}
        for path, info in details.items():
            url = system.unstrip_protocol(path) if "://" in pattern else path
            info = _followed(system, info, url)
            if info["type"] != "directory":
                # Paths in a bucket have no leading slash; both kinds may occur together.
                files[url] = FoundFile(path.lstrip("/"), url, info["size"], _stamp(info))
        if not files:
            raise UserError(
                f"{field}={pattern!r} matches no file in {_glob_root(root)}; correct the pattern."
            )
        found |= files
    common = posixpath.commonpath([posixpath.dirname(file.name) for file in found.values()])
    named = [
        FoundFile(posixpath.relpath(file.name, common), file.path, file.bytes, file.stamp)
        for file in found.values()
    ]
    return sorted(named)


def open_binary(path: str) -> BinaryIO:
    """Returns the file opened for reading.

    A failure of the disk or the network while reading raises RuntimeError.

    Raises:
        UserError: the file cannot be opened.
    """
    system, inner = _system(path)
    try:
        return _Reading(system.open(inner, "rb"), path)
    except OSError as error:
        raise _unreadable(path, error) from None


def size(path: str) -> int:
    """Returns the file's stored size in bytes."""
    return _info(path)["size"]


def stamp(path: str) -> str:
    """Returns a modification time or a checksum, without reading the file."""
    return _stamp(_info(path))


def digest(path: str) -> str:
    """Returns a digest of the content: the object store's checksum, or else the sha256."""
    if checksum := _checksum(_info(path)):
        return checksum
    system, inner = _system(path)
    try:
        with system.open(inner, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from None


def _check_answers(pattern: str) -> None:
    """Raises UserError if nothing answers at a URL; any answer is accepted."""
    scheme, separator, rest = pattern.partition("://")
    if not separator:
        return
    place = f"{scheme}://{rest.partition('/')[0]}"
    answer: concurrent.futures.Future[None] = concurrent.futures.Future()

    def ask() -> None:
        try:
            system, inner = _system(place)
            answer.set_result(system.exists(inner))
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer.result(_ANSWER_SECONDS)
    except concurrent.futures.TimeoutError:
        raise UserError(
            f"{place} does not answer within {_ANSWER_SECONDS} seconds; check the address, and the"
            " network and credentials of this machine."
        ) from None
    except OSError as error:
        raise _unreadable(pattern, error) from None


class _Reading(io.RawIOBase):
    """A file whose read errors are RuntimeErrors: an OSError means the disk of the cache."""

    def __init__(self, stream: BinaryIO, path: str):
        self._stream, self._path = stream, path

    def read(self, size: int = -1) -> bytes:
        try:
            return self._stream.read(size)
        except OSError as error:
            raise RuntimeError(
                f"reading {self._path} failed ({_reason(error)}); start again: finished work is"
                " kept."
            ) from error

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._stream.seekable()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def close(self) -> None:
        self._stream.close()
        super().close()


def _system(path: str) -> tuple[Any, str]:
    import fsspec

    try:
        # Without cached listings: a file may have changed since.
        return fsspec.core.url_to_fs(os.path.expanduser(path), use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); {_what_reads(path, error)}.") from None


def _what_reads(path: str, error: Exception) -> str:
    if path.startswith(("gs://", "gcs://")):
        return "run `pip install 'palmscale[gcs]'`"
    # "Install s3fs to access S3", or 'requires "paramiko" to be installed'
    package = re.search(r'Install (\S+)|requires "(\S+)"', str(error))
    if package is None:
        return "write a path, or a URL that fsspec reads, such as gs://BUCKET/*.txt"
    return f"run `pip install {package[1] or package[2]}`"


def _info(path: str) -> dict[str, Any]:
    system, inner = _system(path)
    try:
        info = system.info(inner)
    except OSError as error:
        raise _unreadable(path, error) from None
    return _followed(system, info, path)


def _followed(system: Any, info: dict[str, Any], path: str) -> dict[str, Any]:
    """Returns the file's info where fsspec reports the symbolic link to it."""
    if not info.get("islink"):
        return info
    try:
        return system.info(os.path.realpath(info["name"]))
    except OSError as error:
        raise _unreadable(path, error) from None


def _stamp(info: dict[str, Any]) -> str:
    return _checksum(info) or str(info.get("mtime", ""))


def _checksum(info: dict[str, Any]) -> str:
    return next((f"{name}:{info[name]}" for name in _CHECKSUMS if info.get(name)), "")


def _glob_root(pattern: str) -> str:
    """Returns the folder where a glob starts: its path up to the first wildcard."""
    fixed = []
    for part in pattern.split("/")[:-1]:
        if any(mark in part for mark in "*?["):
            break
        fixed.append(part)
    return "/".join(fixed) or "/"


def _unreadable(path: str, error: OSError) -> UserError:
    return UserError(
        f"{path} cannot be read ({_reason(error)}); correct its permissions, or leave it out of the"
        " corpus."
    )


def _reason(error: OSError) -> str:
    # An object store's errors have no strerror, and the text of a missing object's is its name.
    return error.strerror or f"{type(error).__name__}: {error}".splitlines()[0]
