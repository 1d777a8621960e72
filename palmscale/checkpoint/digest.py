"""Digests of every file of a checkpoint, which detect a flipped bit before any array is loaded.

A step's directory holds MANIFEST.json (size and SHA-256 of each file, and the store's own entries)
and VERIFIED, written last. VERIFIED holds the SHA-256 of the manifest, which guards it as well.
"""

import concurrent.futures
import errno
import hashlib
import heapq
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from palmscale.checkpoint.manifest import Manifest
from palmscale.errors import CorruptionError
from palmscale.storage.inside import check_links, inside, read_limited
from palmscale.storage.objects import ObjectPath
from palmscale.storage.place import Place
from palmscale.storage.typed_json import MOST_BYTES, parse

MANIFEST, VERIFIED = "MANIFEST.json", "VERIFIED"
_THREADS = 4  # hashlib releases the GIL; with more threads the disk is the bottleneck


def names(directory: Place) -> list[str]:
    """Returns the sorted relative paths of the files below `directory`, without the manifest's."""
    files = (path for path in directory.rglob("*") if path.is_file())
    own = (MANIFEST, VERIFIED)
    return sorted(p.relative_to(directory).as_posix() for p in files if p.name not in own)


def file_digests(
    directory: Place, *, process_index: int = 0, process_count: int = 1
) -> dict[str, dict[str, Any]]:
    """Returns {'bytes', 'sha256'} of each file that this process wrote, by relative path.

    Files on a disk are also flushed, so that a marker never survives a power loss that its files do
    not survive.
    """
    own = [name for name in names(directory) if _writer(name, process_count) == process_index]
    files = [directory / name for name in own]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        digests = list(pool.map(_flush_and_digest, files))
    for folder in {path.parent for path in files} | {directory}:
        _fsync(folder)
    return dict(zip(own, digests, strict=True))


def write_manifest(
    directory: Place, extra: Mapping[str, Any], files: Mapping[str, Mapping[str, Any]]
) -> None:
    """Writes the manifest, with `extra` and the files' digests, and then VERIFIED."""
    content = json.dumps({**extra, "files": dict(sorted(files.items()))}, indent=1).encode()
    write_durably(directory / MANIFEST, content)
    write_marker(directory)
    _fsync(directory.parent)


def write_marker(directory: Place) -> None:
    """Writes VERIFIED for the manifest that `directory` has."""
    content = _read(directory / MANIFEST)
    write_durably(directory / VERIFIED, hashlib.sha256(content).hexdigest().encode())


def read_manifest(directory: Place, marker_name: str | None = VERIFIED) -> dict[str, Any]:
    """Returns the manifest of `directory`; without a marker's name, unchecked.

    Raises:
        CorruptionError: the manifest does not match its digest in the marker file, or is malformed.
    """
    manifest = directory / MANIFEST
    content = _read(manifest)
    if marker_name is not None:
        stated = _read(directory / marker_name)
        if hashlib.sha256(content).hexdigest().encode() != stated:
            raise CorruptionError(f"{manifest} or {marker_name} is damaged: they do not match.")
    return parse(content, Manifest, manifest)


def check(directory: Place, *, process_index: int = 0, process_count: int = 1) -> dict[str, Any]:
    """Verifies this process's share of the files and returns the manifest of `directory`.

    Files that are not in the manifest are not read, but nothing may lead out of the folder.

    Raises:
        CorruptionError: a file is missing, has another size or is damaged; the first one is named.
    """
    manifest = read_manifest(directory)
    check_links(directory)
    own = share(manifest["files"], process_index, process_count)
    for damage in _damages(directory, {name: manifest["files"][name] for name in own}):
        raise damage
    return manifest


def damages(directory: Place, marker_name: str | None = VERIFIED) -> list[str]:
    """Returns a message for each damaged file of `directory`; see `read_manifest`."""
    try:
        files = read_manifest(directory, marker_name)["files"]
        check_links(directory)
    except CorruptionError as error:
        return [str(error)]
    return [str(damage) for damage in _damages(directory, files)]


def share(files: Mapping[str, Mapping[str, Any]], index: int, count: int) -> list[str]:
    """Returns the files that process `index` of `count` reads, balanced by size."""
    loads, own = [(0, process) for process in range(count)], []
    for name in sorted(files, key=lambda name: (-files[name]["bytes"], name)):
        load, process = heapq.heappop(loads)
        heapq.heappush(loads, (load + files[name]["bytes"], process))
        if process == index:
            own.append(name)
    return own


def read_checked(directory: Place, name: str) -> bytes:
    """Returns the content of one file of `directory`, verified against the manifest.

    Raises:
        CorruptionError: the file does not match its digest.
    """
    content = _read(directory / name)
    stated = read_manifest(directory)["files"].get(name)
    if stated is None or hashlib.sha256(content).hexdigest() != stated["sha256"]:
        raise CorruptionError(f"{directory / name} is damaged: its SHA-256 has changed.")
    return content


def write_durably(path: Place, content: bytes) -> dict[str, Any]:
    """Writes `content` atomically, so that a crash leaves all or none of it; returns its digest."""
    if isinstance(path, ObjectPath):
        path.write_bytes(content)
    else:
        _replace(path, content)
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    _fsync(path.parent)


def _writer(name: str, process_count: int) -> int:
    """Returns the process that wrote a file: the one in Orbax's folder name, else process 0."""
    for part in name.split("/"):
        if owner := re.fullmatch(r"ocdbt\.process_(\d+)", part):
            return int(owner[1]) if int(owner[1]) < process_count else 0
    return 0


def _damages(directory: Place, files: Mapping[str, Mapping[str, Any]]) -> Iterator[CorruptionError]:
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        futures = [
            pool.submit(_check_file, directory, name, stated) for name, stated in files.items()
        ]
        for future in futures:
            try:
                future.result()
            except CorruptionError as error:
                yield error


def _flush_and_digest(path: Place) -> dict[str, Any]:
    _fsync(path)
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


def _check_file(directory: Place, name: str, stated: Mapping[str, Any]) -> None:
    path = inside(directory, name)
    try:
        found_bytes = path.stat().st_size
        if found_bytes != stated["bytes"]:
            raise CorruptionError(f"{path} has {found_bytes} bytes; {stated['bytes']} were saved.")
        if _sha256(path) != stated["sha256"]:
            raise CorruptionError(f"{path} is damaged: its SHA-256 has changed.")
    except OSError as error:
        raise _unreadable(path, error) from error


def _read(path: Place) -> bytes:
    try:
        return read_limited(path, MOST_BYTES)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Place, error: OSError) -> OSError | CorruptionError:
    # Any other error, such as a permission or a lost mount, does not mean that the data is damaged.
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return CorruptionError(f"{path} is missing.")
    if error.errno == errno.EIO:
        return CorruptionError(f"{path} cannot be read: {error.strerror}.")
    return error


def _sha256(path: Place) -> str:
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Place) -> None:
    if isinstance(path, ObjectPath):
        return  # object writes are durable once they return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
