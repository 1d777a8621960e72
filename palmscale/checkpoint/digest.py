"""The digest of every file of a checkpoint: a flipped bit is seen before anything is read.

A step's directory holds MANIFEST.json (size and SHA-256 of each file, and what the store adds) and,
written last, VERIFIED with the SHA-256 of the manifest, so that the manifest is guarded as well.
"""

import concurrent.futures
import errno
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from palmscale.errors import CorruptionError

MANIFEST, VERIFIED = "MANIFEST.json", "VERIFIED"
_READ_BYTES = 1 << 22
_THREADS = 4  # hashlib lets go of the GIL; beyond this the disk is the limit


def names(directory: Path) -> list[str]:
    """The files below `directory`, by their relative paths, in order; not the manifest's own."""
    files = (path for path in directory.rglob("*") if path.is_file())
    own = (MANIFEST, VERIFIED)
    return sorted(p.relative_to(directory).as_posix() for p in files if p.name not in own)


def file_digests(directory: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """{'bytes', 'sha256'} of each of the files `names` below `directory`.

    Each file is also flushed to the disk: no marker may outlive a power loss that its files do not.
    """
    files = [directory / name for name in names]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        digests = list(pool.map(_flush_and_digest, files))
    for folder in {path.parent for path in files} | {directory}:
        _fsync(folder)
    return dict(zip(names, digests, strict=True))


def write_manifest(
    directory: Path, extra: Mapping[str, Any], files: Mapping[str, Any] | None = None
) -> None:
    """Writes the manifest with `extra`, then VERIFIED; without `files`, makes their digests."""
    files = file_digests(directory, names(directory)) if files is None else files
    content = json.dumps({**extra, "files": dict(sorted(files.items()))}, indent=1).encode()
    write_durably(directory / MANIFEST, content)
    write_durably(directory / VERIFIED, hashlib.sha256(content).hexdigest().encode())
    _fsync(directory.parent)


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of `directory`; CorruptionError where it differs from what VERIFIED states."""
    manifest, marker = directory / MANIFEST, directory / VERIFIED
    content, stated = _read(manifest), _read(marker)
    if hashlib.sha256(content).hexdigest().encode() != stated:
        raise CorruptionError(f"{manifest} is damaged, or {marker.name} beside it: they disagree.")
    return json.loads(content)


def check(directory: Path, share: tuple[int, int] = (0, 1)) -> dict[str, Any]:
    """The manifest of `directory`, whose every file was read and agrees with it.

    Of a share (i, n), every n-th file from the i-th on.

    Raises CorruptionError naming the first file that is missing, of another size, or damaged.
    A file that the manifest does not name is never read, and is not looked at.
    """
    manifest = read_manifest(directory)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        futures = [
            pool.submit(_check_file, directory / name, stated)
            for name, stated in list(manifest["files"].items())[share[0] :: share[1]]
        ]
        for future in futures:
            future.result()
    return manifest


def read_checked(directory: Path, name: str) -> bytes:
    """The content of one file of `directory`, which agrees with the manifest."""
    content = _read(directory / name)
    stated = read_manifest(directory)["files"][name]["sha256"]
    if hashlib.sha256(content).hexdigest() != stated:
        raise CorruptionError(f"{directory / name} is damaged: its SHA-256 is not the one saved.")
    return content


def write_durably(path: Path, content: bytes) -> None:
    """Writes `content` so that it is whole or absent after a crash."""
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    _fsync(path.parent)


def _flush_and_digest(path: Path) -> dict[str, Any]:
    _fsync(path)
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


def _check_file(path: Path, stated: Mapping[str, Any]) -> None:
    try:
        found_bytes = path.stat().st_size
        if found_bytes != stated["bytes"]:
            raise CorruptionError(f"{path} has {found_bytes} bytes; {stated['bytes']} were saved.")
        if _sha256(path) != stated["sha256"]:
            raise CorruptionError(f"{path} is damaged: its SHA-256 is not the one saved.")
    except OSError as error:
        raise _unreadable(path, error) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> OSError | CorruptionError:
    # Anything else, such as a permission or a lost mount, says nothing about the stored bytes.
    if error.errno == errno.ENOENT:
        return CorruptionError(f"{path} is missing.")
    if error.errno == errno.EIO:
        return CorruptionError(f"{path} cannot be read: {error.strerror}.")
    return error


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
