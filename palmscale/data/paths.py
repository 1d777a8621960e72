"""Files by path or URL: local ones, and those of an object store such as gs://, all by fsspec."""

import concurrent.futures
import hashlib
import io
import os
import posixpath
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from palmscale.errors import UserError

# Of what object stores say of a file, the first that is there changes with its content.
_CHECKSUMS = ("md5Hash", "crc32c", "etag", "ETag")
_ANSWER_SECONDS = 10  # for the first answer of an object store, whose library asks for minutes


@dataclass(frozen=True, order=True)
class FoundFile:
    """A file: its name below the folder that all of them share, its path, and what `ls` tells."""

    name: str
    path: str
    bytes: int
    stamp: str


def find(patterns: Sequence[str], setting: str) -> list[FoundFile]:
    """Returns the files that match any of the glob patterns, by name; `**` matches folders too.

    Raises UserError, which names `setting`, where a pattern matches none.
    """
    found: dict[str, FoundFile] = {}
    for pattern in patterns:
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
                # Paths in a bucket have no leading slash; those of two kinds are compared as well.
                files[url] = FoundFile(path.lstrip("/"), url, info["size"], _stamp(info))
        if not files:
            raise UserError(
                f"{setting}={pattern!r} matches no file in {_glob_root(root)} - at least one is"
                f" needed - correct {setting}"
            )
        found |= files
    common = posixpath.commonpath([posixpath.dirname(file.name) for file in found.values()])
    named = [
        FoundFile(posixpath.relpath(file.name, common), file.path, file.bytes, file.stamp)
        for file in found.values()
    ]
    return sorted(named)


def open_binary(path: str) -> BinaryIO:
    """Returns the file opened for reading; UserError where it cannot be.

    Reading raises RuntimeError where the disk or the network fails: no fault of the text's.
    """
    system, inner = _system(path)
    try:
        return _Reading(system.open(inner, "rb"), path)
    except OSError as error:
        raise _unreadable(path, error) from None


def size(path: str) -> int:
    """Returns the file's bytes as it is stored."""
    return _info(path)["size"]


def stamp(path: str) -> str:
    """Returns what changes when the file does, without reading it: a time, or a checksum."""
    return _stamp(_info(path))


def digest(path: str) -> str:
    """Returns a digest of the content: an object store's own checksum, else the sha256."""
    if checksum := _checksum(_info(path)):
        return checksum
    system, inner = _system(path)
    try:
        with system.open(inner, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from None


def _check_answers(pattern: str) -> None:
    """Raises UserError where nothing answers at a URL; what the answer is plays no part."""
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
            f"{place} does not answer within {_ANSWER_SECONDS} seconds - every file of the corpus"
            " must be read - correct the address, or the network and credentials of this machine"
        ) from None
    except OSError as error:
        raise _unreadable(pattern, error) from None


class _Reading(io.RawIOBase):
    """A file that tells a read that fails from a write that does: both are OSErrors else."""

    def __init__(self, stream: BinaryIO, path: str):
        self._stream, self._path = stream, path

    def read(self, size: int = -1) -> bytes:
        try:
            return self._stream.read(size)
        except OSError as error:
            raise RuntimeError(
                f"{self._path} broke off while it was read ({_reason(error)}); run the same"
                " command again, which keeps what is finished"
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
        # Not from an earlier listing: a file may have changed since.
        return fsspec.core.url_to_fs(os.path.expanduser(path), use_listings_cache=False)
    except (ImportError, ValueError) as error:
        scheme = path.partition("://")[0]
        extra = f"pip install 'palmscale[{'gcs' if scheme in ('gs', 'gcs') else scheme}]'"
        raise UserError(
            f"{path} cannot be reached ({error}) - what reads {scheme}:// is needed - install it,"
            f" as with `{extra}`"
        ) from None


def _info(path: str) -> dict[str, Any]:
    system, inner = _system(path)
    try:
        info = system.info(inner)
    except OSError as error:
        raise _unreadable(path, error) from None
    return _followed(system, info, path)


def _followed(system: Any, info: dict[str, Any], path: str) -> dict[str, Any]:
    """Returns what is known of the file itself where fsspec tells of the link to it."""
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
    # Where a glob starts to look: its path up to the first wildcard.
    fixed = []
    for part in pattern.split("/")[:-1]:
        if any(mark in part for mark in "*?["):
            break
        fixed.append(part)
    return "/".join(fixed) or "/"


def _unreadable(path: str, error: OSError) -> UserError:
    return UserError(
        f"{path} cannot be read ({_reason(error)}) - every file of the corpus must be - correct its"
        " permissions or leave it out"
    )


def _reason(error: OSError) -> str:
    # Those of an object store have no strerror, and a missing object's is its name alone.
    return error.strerror or f"{type(error).__name__}: {error}".splitlines()[0]
