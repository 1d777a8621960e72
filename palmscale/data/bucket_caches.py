"""Row caches in a bucket. Rows are read from a disk, so each host has a copy of the whole cache."""

import concurrent.futures
import contextlib
import hashlib
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palmscale.data.build.builder import exclusive
from palmscale.data.row_cache import MANIFEST, damaged, files_of, read_manifest
from palmscale.errors import UserError
from palmscale.observe import log
from palmscale.storage.inside import inside
from palmscale.storage.objects import SCHEME, ObjectPath
from palmscale.storage.place import local_path

Progress = Callable[[str, int, int | None], None]  # (activity, bytes done, bytes in all)

COPIES = Path("~/.cache/palmscale/buckets")
DOWNLOADING, UPLOADING = "Copying rows from the bucket", "Copying rows to the bucket"
_CLAIM = "uploading"  # an object beside the files, rewritten as long as a host uploads them
_CLAIM_SECONDS = 600
_BLOCK_BYTES = 8 << 20
_CONNECTIONS = 8


@dataclass(frozen=True)
class BucketCaches:
    """A folder of caches in a bucket, and a folder on this host's disk with copies of some."""

    bucket: ObjectPath
    disk: Path

    @classmethod
    def at(cls, folder: ObjectPath, copies: Path) -> "BucketCaches":
        """Returns the caches in `folder`, with copies under the same path below `copies`."""
        return cls(folder, local_path(copies) / folder.url.removeprefix(SCHEME))

    def names(self, prefix: str) -> list[str]:
        """Returns the names of the complete caches in the bucket that start with `prefix`."""
        with _told(self.bucket):
            found = [path for path in self.bucket.iterdir() if path.name.startswith(prefix)]
            return [path.name for path in found if (path / MANIFEST).is_file()]

    def fetch(
        self,
        name: str,
        progress: Progress = lambda what, done, total: None,
        waiting: Callable[[], None] = lambda: None,
    ) -> bool:
        """Copies a cache to the disk unless it is there; returns whether it is there now.

        The copy appears complete or not at all, and has the digests of its manifest. A second
        process of this host waits, calls `waiting` about once a second, and uses the same copy.

        Raises:
            CorruptionError: a file in the bucket differs from its digest.
            UserError: the bucket cannot be read, or the disk not be written.
            RuntimeError: the store failed otherwise; another try may help.
        """
        source, target = self.bucket / name, self.disk / name
        if (target / MANIFEST).exists():
            return True
        with _told(source):
            if not (source / MANIFEST).is_file():
                self.bucket.iterdir()  # tells now, not after a build, that the bucket is missing
                return False
        with _disk(target), exclusive(target, waiting):
            if not (target / MANIFEST).exists():
                partial = target.with_name(f".{name}.copied")
                partial.mkdir(exist_ok=True)
                with _told(source):
                    (partial / MANIFEST).write_bytes((source / MANIFEST).read_bytes())
                manifest = read_manifest(partial)
                _each(
                    lambda file, count: _download(source / file["name"], partial, file, count),
                    _stored_files(manifest),
                    lambda done, total: progress(DOWNLOADING, done, total),
                )
                partial.rename(target)
        return True

    def publish(self, name: str, progress: Progress = lambda what, done, total: None) -> None:
        """Copies a cache of the disk to the bucket unless it is there, or a host is copying it.

        The manifest comes last, so the cache appears in the bucket when it is complete.

        Raises:
            UserError: the bucket cannot be written.
            RuntimeError: the store failed otherwise; another try may help.
        """
        source, target = self.disk / name, self.bucket / name
        with _told(target):
            if (target / MANIFEST).is_file():
                return
            claim = _Claim(target / _CLAIM)
            if not claim.is_mine:
                log.say(f"Another host is copying {source} to {target}.")
                return

            def upload(file: dict[str, Any], count: Callable[[int], None]) -> None:
                content = (source / file["name"]).read_bytes()
                with _told(target):
                    (target / file["name"]).write_bytes(content)
                    claim.renew()
                count(len(content))

            try:
                _each(
                    upload,
                    _stored_files(read_manifest(source)),
                    lambda done, total: progress(UPLOADING, done, total),
                )
                (target / MANIFEST).write_bytes((source / MANIFEST).read_bytes())
            finally:
                claim.release()
        log.say(f"Copied {source} to {target}.")


def fetched(
    cache: ObjectPath, progress: Progress, waiting: Callable[[], None], *, copies: Path
) -> Path:
    """Returns the folder of this host's copy of one built cache, below `copies`.

    Raises:
        UserError: there is no cache; see also `BucketCaches.fetch`.
    """
    caches = BucketCaches.at(cache.parent, copies)
    if not caches.fetch(cache.name, progress, waiting):
        raise UserError(f"{cache} is not a cache: it has no {MANIFEST}; correct the path.")
    return caches.disk / cache.name


class _Claim:
    """The right to upload a cache: held by the host that wrote the object, until it is too old."""

    def __init__(self, path: ObjectPath) -> None:
        self._path, self._renewed = path, time.monotonic()
        self._content = socket.gethostname().encode()
        generation = 0
        with contextlib.suppress(FileNotFoundError):
            stat = path.stat()
            # By two clocks: a wrong one only makes two hosts upload the same bytes.
            generation = stat.generation if time.time() - stat.st_mtime > _CLAIM_SECONDS else None
        self.is_mine = generation is not None
        if self.is_mine:
            try:
                path.write_over(generation, self._content)
            except FileExistsError:
                self.is_mine = False

    def renew(self) -> None:
        if time.monotonic() - self._renewed > _CLAIM_SECONDS / 10:
            self._renewed = time.monotonic()
            self._path.write_bytes(self._content)

    def release(self) -> None:
        self._path.unlink(missing_ok=True)


def _stored_files(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns {"name", and for row files "bytes" and "sha256"} of each file but the manifest."""
    files = list(files_of(manifest))
    if name := manifest["vocabulary"].get("file"):
        files.append({"name": str(name)})
    return files


def _each(
    function: Callable[[dict[str, Any], Callable[[int], None]], None],
    files: list[dict[str, Any]],
    progress: Callable[[int, int], None],
) -> None:
    """Calls a function with each file, several at once, and with a counter of its bytes."""
    total, done = sum(file.get("bytes", 0) for file in files), 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(min(done, total), total)

    with concurrent.futures.ThreadPoolExecutor(_CONNECTIONS) as pool:
        pending = [pool.submit(function, file, count) for file in files]
        try:
            for each in concurrent.futures.as_completed(pending):
                each.result()
        finally:
            for each in pending:
                each.cancel()


def _download(
    source: ObjectPath, folder: Path, file: dict[str, Any], count: Callable[[int], None]
) -> None:
    path = inside(folder, file["name"])
    if path.exists():  # a killed copy went so far: files appear under their names when complete
        count(path.stat().st_size)
        return
    digest, partial = hashlib.sha256(), path.with_name(f"{path.name}.part")
    with open(partial, "wb") as stream, _told(source), source.open() as stored:
        while block := stored.read(_BLOCK_BYTES):
            stream.write(block)
            digest.update(block)
            count(len(block))
    if digest.hexdigest() != file.get("sha256", digest.hexdigest()):
        raise damaged(f"{source} differs from its sha256")
    partial.rename(path)


@contextlib.contextmanager
def _disk(target: Path) -> Iterator[None]:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(
            f"the copy of the cache, {target}, cannot be written ({error.strerror or error}); free"
            " space there, or mount the bucket and set Data.cache_directory to a folder of it."
        ) from error


@contextlib.contextmanager
def _told(path: ObjectPath) -> Iterator[None]:
    """Turns the store's errors into those of a cache; one of the disk is an OSError still."""
    try:
        yield
    except (PermissionError, FileNotFoundError) as error:
        if not str(error.filename).startswith(SCHEME):
            raise
        raise UserError(
            f"{path}: {error.strerror or error}; create the bucket, or give this machine's account"
            " the role storage.objectUser on it."
        ) from None
    except OSError as error:
        if not str(error.filename).startswith(SCHEME):
            raise
        raise RuntimeError(
            f"{path}: {error.strerror or error}; start again: finished work is kept."
        ) from error
