"""The digest of every file of a checkpoint: a flipped bit is seen before anything is read.

A step's directory holds MANIFEST.json (size and SHA-256 of each file, and what the store adds) and,
written last, VERIFIED with the SHA-256 of the manifest, so that the manifest is guarded as well.
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

from palmscale.errors import CorruptionError
from palmscale.storage.objects import ObjectPath
from palmscale.storage.place import Place

MANIFEST, VERIFIED = "MANIFEST.json", "VERIFIED"
_THREADS = 4  # hashlib lets go of the GIL; beyond this the disk is the limit


def names(directory: Place) -> list[str]:
    """The files below `directory`, by their relative paths, in order; not the manifest's own."""
    files = (path for path in directory.rglob("*") if path.is_file())
    own = (MANIFEST, VERIFIED)
    return sorted(p.relative_to(directory).as_posix() for p in files if p.name not in own)


def file_digests(
    directory: Place, *, process_index: int = 0, process_count: int = 1
) -> dict[str, dict[str, Any]]:
    """{'bytes', 'sha256'} of each file below `directory` that the process wrote, by relative path.

    Each file on a disk is also flushed: no marker may outlive a power loss that its files do not.
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
    """Writes the manifest, of `extra` and the files' digests, and then VERIFIED."""
    content = json.dumps({**extra, "files": dict(sorted(files.items()))}, indent=1).encode()
    write_durably(directory / MANIFEST, content)
    write_durably(directory / VERIFIED, hashlib.sha256(content).hexdigest().encode())
    _fsync(directory.parent)


def read_manifest(directory: Place, marker_name: str = VERIFIED) -> dict[str, Any]:
    """The manifest of `directory`; CorruptionError where it differs from what the marker states."""
    manifest, marker = directory / MANIFEST, directory / marker_name
    content, stated = _read(manifest), _read(marker)
    if hashlib.sha256(content).hexdigest().encode() != stated:
        raise CorruptionError(f"{manifest} is damaged, or {marker.name} beside it: they disagree.")
    return json.loads(content)


def check(directory: Place, *, process_index: int = 0, process_count: int = 1) -> dict[str, Any]:
    """The manifest of `directory`; the process has read its share of the files, and they agree.

    Raises CorruptionError naming the first file that is missing, of another size, or damaged.
    A file that the manifest does not name is never read, and is not looked at.
    """
    manifest = read_manifest(directory)
    own = share(manifest["files"], process_index, process_count)
    for damage in _damages(directory, {name: manifest["files"][name] for name in own}):
        raise damage
    return manifest


def damages(directory: Place, marker_name: str = VERIFIED) -> list[str]:
    """What is wrong with each damaged file of `directory`, in words; nothing where it is whole."""
    try:
        files = read_manifest(directory, marker_name)["files"]
    except CorruptionError as error:
        return [str(error)]
    return [str(damage) for damage in _damages(directory, files)]


def share(files: Mapping[str, Mapping[str, Any]], index: int, count: int) -> list[str]:
    """The names of the files that one of `count` processes reads: about as many bytes for each."""
    loads, own = [(0, process) for process in range(count)], []
    for name in sorted(files, key=lambda name: (-files[name]["bytes"], name)):
        load, process = heapq.heappop(loads)
        heapq.heappush(loads, (load + files[name]["bytes"], process))
        if process == index:
            own.append(name)
    return own


def read_checked(directory: Place, name: str) -> bytes:
    """The content of one file of `directory`, which agrees with the manifest."""
    content = _read(directory / name)
    stated = read_manifest(directory)["files"][name]["sha256"]
    if hashlib.sha256(content).hexdigest() != stated:
        raise CorruptionError(f"{directory / name} is damaged: its SHA-256 is not the one saved.")
    return content


def write_durably(path: Place, content: bytes) -> dict[str, Any]:
    """Writes `content` so that it is whole or absent after a crash; returns its digest."""
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
    """The process that wrote a file: its own where Orbax's folders say so, else process 0."""
    for part in name.split("/"):
        if owner := re.fullmatch(r"ocdbt\.process_(\d+)", part):
            return int(owner[1]) if int(owner[1]) < process_count else 0
    return 0


def _damages(directory: Place, files: Mapping[str, Mapping[str, Any]]) -> Iterator[CorruptionError]:
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        futures = [
            pool.submit(_check_file, directory / name, stated) for name, stated in files.items()
        ]
        for future in futures:
            try:
                future.result()
            except CorruptionError as error:
                yield error


def _flush_and_digest(path: Place) -> dict[str, Any]:
    _fsync(path)
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


def _check_file(path: Place, stated: Mapping[str, Any]) -> None:
    try:
        found_bytes = path.stat().st_size
        if found_bytes != stated["bytes"]:
            raise CorruptionError(f"{path} has {found_bytes} bytes; {stated['bytes']} were saved.")
        if _sha256(path) != stated["sha256"]:
            raise CorruptionError(f"{path} is damaged: its SHA-256 is not the one saved.")
    except OSError as error:
        raise _unreadable(path, error) from error


def _read(path: Place) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Place, error: OSError) -> OSError | CorruptionError:
    # Anything else, such as a permission or a lost mount, says nothing about the stored bytes.
    if error.errno == errno.ENOENT:
        return CorruptionError(f"{path} is missing.")
    if error.errno == errno.EIO:
        return CorruptionError(f"{path} cannot be read: {error.strerror}.")
    return error


def _sha256(path: Place) -> str:
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Place) -> None:
    if isinstance(path, ObjectPath):
        return  # a write lasts once it has returned
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
