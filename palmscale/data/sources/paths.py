"""Files by path or URL, local or in an object store such as gs://, through fsspec."""

import concurrent.futures
import hashlib
import io
import os
import posixpath
import stat
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from palmscale.data.sources import local_files
from palmscale.errors import UserError

# What object stores report about a file; the first that is present changes with the content.
_CHECKSUMS = ("md5Hash", "crc32c", "etag", "ETag")
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "abfs": "adlfs", "az": "adlfs", "hf": "huggingface_hub"}
_DIGESTED_BYTES = 1 << 24  # at a time
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

    Linked folders are read. Hidden files and folders are left out unless the pattern names the dot.

    Raises:
        UserError: a pattern matches no file, or one that cannot be read; the message says that
            `field` holds it.
    """
    found: dict[Any, FoundFile] = {}
    for pattern in (patterns,) if isinstance(patterns, str) else patterns:
        files = _remote_files(pattern) if "://" in pattern else _local_files(pattern, field)
        if not files:
            raise UserError(
                f"{field}={pattern!r} matches no file in {_glob_root(_system(pattern)[1])}; correct"
                " the pattern."
            )
        for file in files:
            is_local = "://" not in file.path
            found.setdefault(local_files.identity(file.path) if is_local else file.path, file)
    if not found:
        raise UserError(f"{field}={patterns!r} names no files; expected at least one pattern.")
    common = posixpath.commonpath([posixpath.dirname(file.name) for file in found.values()])
    named = [
        FoundFile(posixpath.relpath(file.name, common), file.path, file.bytes, file.stamp)
        for file in found.values()
    ]
    return sorted(named)


def _local_files(pattern: str, field: str) -> list[FoundFile]:
    folder = os.path.expanduser(pattern)
    if os.path.isdir(folder):
        raise UserError(
            f"{field}={pattern!r} is a folder; expected files, for example"
            f" {local_files.advice_for_folder(folder)!r}."
        )
    return [local_file(path, field) for path in local_files.glob(pattern)]


def local_file(path: str, field: str) -> FoundFile:
    """Returns a local file, whose name is its path.

    Raises:
        UserError: it cannot be read, is not a regular file, or its path is not UTF-8.
    """
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise UserError(
            f"{field} matches {shown}, whose name is not UTF-8; rename it, or leave it out."
        ) from None
    try:
        found = os.stat(path)
    except OSError as error:
        raise _unreadable(path, error) from None
    if not stat.S_ISREG(found.st_mode):
        raise UserError(
            f"{field} matches {path}, which is not a regular file but a pipe, a socket or a device;"
            " save its content to a file, or leave it out."
        )
    # Paths in a bucket have no leading slash; both kinds may occur together.
    return FoundFile(path.lstrip("/"), path, found.st_size, str(found.st_mtime))


def _remote_files(pattern: str) -> list[FoundFile]:
    _check_answers(pattern)
    system, root = _system(pattern)
    try:
        if "[" in root and system.isfile(root):
            details = {root: system.info(root)}
        else:
            details = system.glob(root, detail=True)
    except OSError as error:
        raise _unreadable(pattern, error) from None
    names_dot = "/." in root
    files = []
    for path, info in details.items():
        url = system.unstrip_protocol(path)
        info = _followed(system, info, url)
        if info["type"] != "directory" and (names_dot or "/." not in path):
            files.append(FoundFile(path.lstrip("/"), url, info["size"], _stamp(info)))
    return files


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


def digest(path: str, go_on: Callable[[], None] = lambda: None) -> str:
    """Returns a digest of the content: the object store's checksum, or else the sha256.

    `go_on` is called whenever a part has been read.
    """
    if checksum := _checksum(_info(path)):
        return checksum
    system, inner = _system(path)
    try:
        with system.open(inner, "rb") as stream:
            content = hashlib.sha256()
            while part := stream.read(_DIGESTED_BYTES):
                content.update(part)
                go_on()
            return content.hexdigest()
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

    if "://" not in path:  # else fsspec takes `a::b` for a chain of two systems
        return fsspec.filesystem("file"), os.path.abspath(os.path.expanduser(path))
    try:
        # Without cached listings: a file may have changed since.
        return fsspec.core.url_to_fs(os.path.expanduser(path), use_listings_cache=False)
    except (ImportError, ValueError) as error:
        scheme = path.partition("://")[0]
        install = "palmscale[gcs]" if scheme in ("gs", "gcs") else _PACKAGES.get(scheme)
        remedy = (
            f"install it with `pip install {install!r}`"
            if install
            else "use another address, or install what fsspec needs for it"
        )
        raise UserError(f"{path} cannot be read ({error}); {remedy}.") from None


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
