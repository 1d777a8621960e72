"""Objects of Google Cloud Storage, by as much of `pathlib.Path` as a run's files need.

What a folder of files has and a bucket has not: folders, appending, renaming at once, locks. What
needs one of these is written for both kinds where it is needed; all else works on either path.
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
_BLOCK_BYTES = 8 << 20  # of a file that is read in order; each reader holds two
_REQUEST_SECONDS = 120


@dataclass(frozen=True)
class Stat:
    """What the store says of an object; each write gives it another generation.

    `st_mtime` is by the store's clock, in seconds: two of them can be compared, from any host.
    """

    st_size: int
    st_mtime: float
    generation: int


@dataclass(frozen=True, order=True)
class ObjectPath:
    """The path gs://bucket/name of an object, or of all the objects below it: a folder.

    A write is whole or does not happen, and lasts once it has returned. A folder is there as long
    as an object is below it. Requests that fail for a while are tried again, for half a minute or
    so; then, and where there is no permission, the error is an OSError whose text names the object.
    """

    url: str
    is_listed: bool = field(default=False, compare=False, repr=False)  # a listing has shown it

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> Self:
        return type(self)(f"{self.url}/{name}")

    @property
    def bucket(self) -> Self:
        """The bucket, a path without a name."""
        return type(self)(SCHEME + self.url.removeprefix(SCHEME).partition("/")[0])

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> Self:
        """The folder that the path is in; a bucket is in itself."""
        return self if self == self.bucket else type(self)(self.url.rpartition("/")[0])

    def absolute(self) -> Self:
        """Returns the path itself."""
        return self

    def with_name(self, name: str) -> Self:
        """Returns the path with another last part."""
        return self.parent / name

    def relative_to(self, folder: Self) -> PurePosixPath:
        """Returns the path below `folder`, which it must be in."""
        return PurePosixPath(self.url.removeprefix(f"{folder.url}/"))

    # Reading.

    def stat(self) -> Stat:
        """Returns what the store says of the object. FileNotFoundError where there is none."""
        bucket, name = self._parts()
        # gcsfs's own look-up takes a folder for an object, and lists where it may not look.
        with _told(self):
            info = _store().call("GET", "b/{}/o/{}", bucket, name, json_out=True)
        moment = datetime.datetime.fromisoformat(info["updated"]).timestamp()
        return Stat(int(info["size"]), moment, int(info["generation"]))

    def exists(self) -> bool:
        """Whether there is such an object or folder."""
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """Whether there is such an object."""
        if self.is_listed:
            return True
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Whether there is an object below the path."""
        try:
            return bool(self._list(f"{self.url}/", delimiter="/", first_only=True))
        except FileNotFoundError:  # not even the bucket
            return False

    def iterdir(self) -> Iterator[Self]:
        """Yields what is in the folder; nothing where there is none."""
        return iter(self._list(f"{self.url}/", delimiter="/"))

    def rglob(self, pattern: str) -> Iterator[Self]:
        """Yields every object below the folder; `pattern` must be `*`."""
        if pattern != "*":
            raise NotImplementedError(f"rglob({pattern!r}) of an object store")
        return iter(self._list(f"{self.url}/"))

    def open(self, mode: str = "rb", buffering: int = -1) -> BinaryIO:
        """Returns the object opened for reading, in order and a block at a time."""
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
        """Writes the object, in the place of the one that is there."""
        with _told(self):
            _store().pipe_file(self._key(), content)

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        """Writes the object as text, in the place of the one that is there."""
        self.write_bytes(text.encode(encoding))

    def touch(self) -> None:
        """Writes an empty object where there is none."""
        if not self.is_file():
            self.write_bytes(b"")

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing: a folder comes with its first object."""

    def write_over(self, generation: int, content: bytes) -> int:
        """Writes the object if it is of that generation, 0 for none; returns its new one.

        The store itself compares, so that of two writers one wins. FileExistsError for the other.
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
        """Removes the object, if it still is of that generation where one is given.

        FileExistsError where it is of another one.
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
        """Removes every object below the folder, if there are any."""
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
        """The objects, and with a delimiter the folders, whose URLs begin so, in order."""
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
                # Some programs mark a folder by an empty object of its name and a slash.
                return sorted(path for path in found if not path.url.endswith("/"))


class _Reading:
    """An open object, of which an error is an OSError as well."""

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
    """The client, which asks the store every time: another host may have written since."""
    try:
        import fsspec
        import gcsfs
    except ImportError as error:
        raise UserError(
            f"{SCHEME} cannot be reached ({error}) - what reads and writes it is needed - install"
            " it: `pip install 'palmscale[gcs]'`"
        ) from None
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it prints tracebacks of what it raises
    # For Orbax's client as well, which is made elsewhere.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    return gcsfs.GCSFileSystem(use_listings_cache=False, requests_timeout=_REQUEST_SECONDS)


@contextlib.contextmanager
def _told(path: ObjectPath) -> Iterator[None]:
    """Makes whatever the client raises an OSError that says what happened to which object."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "No such object", str(path)) from None
    except FileExistsError:
        raise FileExistsError(errno.EEXIST, "Another one has written it", str(path)) from None
    except Exception as error:  # gcsfs's own, aiohttp's and Google's: most are no OSErrors
        code = getattr(error, "code", None)
        text = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        if code in (401, 403) or text.startswith("Forbidden"):
            raise PermissionError(errno.EACCES, f"Permission denied ({text})", str(path)) from None
        text = f"the object store answers {text}" if code else f"{type(error).__name__}: {text}"
        raise OSError(errno.EREMOTEIO, text, str(path)) from None
