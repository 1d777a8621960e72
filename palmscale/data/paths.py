"""Files by path or URL: local ones, and those of an object store such as gs://, all by fsspec."""

import hashlib
import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from palmscale.errors import UserError

_READ_BYTES = 1 << 20
# Of what object stores say of a file, the first that is there changes with its content.
_CHECKSUMS = ("md5Hash", "crc32c", "etag", "ETag", "generation")


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
        system, root = _system(pattern)
        try:
            details = system.glob(root, detail=True)
        except OSError as error:
            raise _unreadable(pattern, error) from None
        files = {p: i for p, i in details.items() if i["type"] == "file" or _is_file(system, p)}
        if not files:
            raise UserError(
                f"{setting}={pattern!r} matches no file in {_glob_root(root)} - at least one is"
                f" needed - correct {setting}"
            )
        for path, info in files.items():
            url = system.unstrip_protocol(path) if "://" in pattern else path
            found[url] = FoundFile(path, url, info["size"], _stamp(info))
    common = posixpath.commonpath([posixpath.dirname(file.name) for file in found.values()])
    named = [
        FoundFile(posixpath.relpath(file.name, common), file.path, file.bytes, file.stamp)
        for file in found.values()
    ]
    return sorted(named)


def open_binary(path: str) -> BinaryIO:
    """Returns the file opened for reading; UserError where it cannot be."""
    system, inner = _system(path)
    try:
        return system.open(inner, "rb")
    except OSError as error:
        raise _unreadable(path, error) from None


def stamp(path: str) -> str:
    """Returns what changes when the file does, without reading it: a time, or a checksum."""
    system, inner = _system(path)
    try:
        return _stamp(system.info(inner))
    except OSError as error:
        raise _unreadable(path, error) from None


def digest(path: str) -> str:
    """Returns a digest of the content: a local file's sha256, or an object store's own checksum."""
    system, inner = _system(path)
    try:
        if "://" in path:
            return _stamp(system.info(inner))
        sha256 = hashlib.sha256()
        with open(inner, "rb", buffering=0) as stream:
            while block := stream.read(_READ_BYTES):
                sha256.update(block)
        return sha256.hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from None


def _system(path: str) -> tuple[Any, str]:
    import fsspec

    try:
        return fsspec.core.url_to_fs(os.path.expanduser(path))
    except (ImportError, ValueError) as error:
        scheme = path.partition("://")[0]
        extra = f"pip install 'palmscale[{'gcs' if scheme in ('gs', 'gcs') else scheme}]'"
        raise UserError(
            f"{path} cannot be reached ({error}) - what reads {scheme}:// is needed - install it,"
            f" as with `{extra}`"
        ) from None


def _is_file(system: Any, path: str) -> bool:
    return system.isfile(path)  # a link to a file is one


def _stamp(info: dict[str, Any]) -> str:
    if "mtime" in info:
        return str(info["mtime"])
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
        f"{path} cannot be read ({error.strerror or error}) - every file of the corpus must be -"
        " correct its permissions or leave it out"
    )
