"""Google Cloud Storage objects, with the part of `pathlib.Path`'s interface that runs need.

A bucket has no folders, appends, atomic renames or locks. Code that needs one of these handles
disks and buckets separately; all other code works with either kind of path.
"""

import contextlib
import datetime
import errno
import functools
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Self

from palmscale.errors import UserError

SCHEME = "gs://"
_BLOCK_BYTES = 8 << 20  # per read of a sequential stream; each reader holds two blocks
_REQUEST_SECONDS = 120


@dataclass(frozen=True)
class Stat:
    """The store's record of an object. Every write gives the object a new generation.

    `st_mtime` is in seconds, by the store's clock, so values can be compared from any host.
    """

    st_size: int
    st_mtime: float
    generation: int


@dataclass(frozen=True, order=True)
class ObjectPath:
    """The path gs://bucket/name of an object, or of a folder: all objects below it.

    Writes are atomic, and durable once they return. A folder exists as long as there is an object
    below it. Failed requests are retried for about half a minute. After that, or without
    permission, an OSError names the object.
    """

    url: str
    is_listed: bool = field(default=False, compare=False, repr=False)  # known from a listing

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> Self:
        return type(self)(f"{self.url}/{name}")

    @property
    def bucket(self) -> Self:
        """The bucket: the path without an object name."""
        return type(self)(SCHEME + self.url.removeprefix(SCHEME).partition("/")[0])

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> Self:
        """The parent folder; a bucket is its own parent."""
        return self if self == self.bucket else type(self)(self.url.rpartition("/")[0])

    def absolute(self) -> Self:
        """Returns the path itself, which is always absolute."""
        return self

    def with_name(self, name: str) -> Self:
        """Returns the path with its last part replaced."""
        return self.parent / name

    def relative_to(self, folder: Self) -> PurePosixPath:
        """Returns the path relative to `folder`, which must contain it."""
        return PurePosixPath(self.url.removeprefix(f"{folder.url}/"))

    # Reading.

    def stat(self) -> Stat:
        """Returns the store's record of the object.

        Raises:
            FileNotFoundError: there is no such object.
        """
        bucket, name = self._parts()
        # gcsfs's own lookup mistakes folders for objects, and may list without permission to.
        with _told(self):
            info = _store().call("GET", "b/{}/o/{}", bucket, name, json_out=True)
        moment = datetime.datetime.fromisoformat(info["updated"]).timestamp()
        return Stat(int(info["size"]), moment, int(info["generation"]))

    def exists(self) -> bool:
        """Returns whether there is such an object or folder."""
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """Returns whether there is such an object."""
        if self.is_listed:
            return True
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Returns whether there is an object below the path."""
        try:
            return bool(self._list(f"{self.url}/", delimiter="/", first_only=True))
        except FileNotFoundError:  # the bucket does not exist
            return False

    def iterdir(self) -> Iterator[Self]:
        """Yields the contents of the folder; nothing if it does not exist."""
        return iter(self._list(f"{self.url}/", delimiter="/"))

    def rglob(self, pattern: str) -> Iterator[Self]:
        """Yields every object below the folder; `pattern` must be `*`."""
        if pattern != "*":
            raise NotImplementedError(f"rglob({pattern!r}) of an object store")
        return iter(self._list(f"{self.url}/"))

    def open(self, mode: str = "rb", buffering: int = -1) -> BinaryIO:
        """Opens the object for sequential reading, one block at a time."""
        if mode != "rb":
            raise NotImplementedError(f"open(mode={mode!r}) of an object store")
        with _told(self):
            return _Reading(_store().open(self._key(), "rb", block_size=_BLOCK_BYTES), self)

    def read_bytes(self) -> bytes:
        """Returns the object's content."""
        with _told(self):
            return _store().cat_file(self._key())

    def read_text(self, encoding: str = "utf-8") -> str:
        """Returns the object's content as text."""
        return self.read_bytes().decode(encoding)

    # Writing.

    def write_bytes(self, content: bytes) -> None:
        """Writes the object, replacing an existing one."""
        with _told(self):
            _store().pipe_file(self._key(), content)

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        """Writes the object as text, replacing an existing one."""
        self.write_bytes(text.encode(encoding))

    def touch(self) -> None:
        """Writes an empty object if there is none."""
        if not self.is_file():
            self.write_bytes(b"")

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing: a folder exists once it has an object."""

    def write_over(self, generation: int, content: bytes) -> int:
        """Writes the object if its generation is `generation`; returns the new generation.

        0 stands for no object. The store makes the comparison, so only one of two writers wins.

        Raises:
            FileExistsError: the object has another generation.
        """
        bucket, name = self._parts()
        store = _store()
        with _told(self):
            info = store.call(
                "POST",
                f"{store.base.replace('/storage/v1/', '/upload/storage/v1/')}b/{{}}/o",
                bucket,
                uploadType="media",
                name=name,
                ifGenerationMatch=str(generation),
                data=content,
                json_out=True,
            )
        return int(info["generation"])

    def unlink(self, missing_ok: bool = False, generation: int | None = None) -> None:
        """Removes the object; if a generation is given, only if it is still the current one.

        Raises:
            FileExistsError: the object has another generation.
        """
        bucket, name = self._parts()
        match = {} if generation is None else {"ifGenerationMatch": str(generation)}
        try:
            with _told(self):
                _store().call("DELETE", "b/{}/o/{}", bucket, name, **match)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_tree(self) -> None:
        """Removes every object below the folder."""
        with contextlib.suppress(FileNotFoundError), _told(self):
            _store().rm(self._key(), recursive=True)

    def copy_to(self, other: Self) -> None:
        """Copies the object within the store."""
        with _told(self):
            _store().cp_file(self._key(), other._key())

    def _key(self) -> str:
        return self.url.removeprefix(SCHEME)

    def _parts(self) -> tuple[str, str]:
        bucket, _, name = self._key().partition("/")
        return bucket, name

    def _list(self, prefix: str, first_only: bool = False, **options: Any) -> list[Self]:
        """Returns the objects, and with a delimiter the folders, whose URLs start with `prefix`."""
        bucket, _, name = prefix.removeprefix(SCHEME).partition("/")
        found: list[Self] = []
        page = None
        while True:
            with _told(self):
                answer = _store().call(
                    "GET", "b/{}/o", bucket, prefix=name, pageToken=page,
                    maxResults=1 if first_only else None, json_out=True, **options,
                )  # fmt: skip
            root = f"{SCHEME}{bucket}/"
            found += [type(self)(root + item["name"], True) for item in answer.get("items", [])]
            found += [type(self)(root + each.rstrip("/")) for each in answer.get("prefixes", [])]
            page = answer.get("nextPageToken")
            if page is None or (first_only and found):
                # Some programs mark a folder with an empty object whose name ends in a slash.
                return sorted(path for path in found if not path.url.endswith("/"))


class _Reading:
    """An open object whose errors are OSErrors too."""

    def __init__(self, stream: BinaryIO, path: ObjectPath) -> None:
        self._stream, self._path = stream, path

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _told(self._path):
            return self._stream.readinto(buffer)

    def read(self, size: int = -1) -> bytes:
        with _told(self._path):
            return self._stream.read(size)

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@functools.cache
def _store() -> Any:
    """Returns the client, without caches, since another host may have written in the meantime."""
    try:
        import fsspec
        import gcsfs
    except ImportError as error:
        raise UserError(
            f"{SCHEME} paths need a package that is not installed ({error}); run: pip install"
            " 'palmscale[gcs]'"
        ) from None
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs tracebacks of its exceptions
    # Also for Orbax's client, which is created elsewhere.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    return gcsfs.GCSFileSystem(use_listings_cache=False, requests_timeout=_REQUEST_SECONDS)


@contextlib.contextmanager
def _told(path: ObjectPath) -> Iterator[None]:
    """Converts the client's exceptions to OSErrors that name the object."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "No such object", str(path)) from None
    except FileExistsError:
        raise FileExistsError(errno.EEXIST, "Overwritten by another writer", str(path)) from None
    except Exception as error:  # from gcsfs, aiohttp or Google; most are not OSErrors
        code = getattr(error, "code", None)
        text = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        if code in (401, 403) or text.startswith("Forbidden"):
            raise PermissionError(errno.EACCES, f"Permission denied ({text})", str(path)) from None
        text = f"the object store answers {text}" if code else f"{type(error).__name__}: {text}"
        raise OSError(errno.EREMOTEIO, text, str(path)) from None
