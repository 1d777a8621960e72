"""Where a run is stored: a folder that all its hosts see, or a folder in an object store."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from palmscale.errors import UserError
from palmscale.storage.objects import SCHEME, ObjectPath

Place = Path | ObjectPath


def place(path: "str | os.PathLike[str] | ObjectPath") -> Place:
    """Returns the path of a folder: an `ObjectPath` for a gs:// URL, else a `local_path`."""
    if isinstance(path, ObjectPath):
        return path
    text = os.fspath(path)
    if text.startswith(SCHEME):
        return ObjectPath(text.rstrip("/"))
    return local_path(text)


def local_path(path: str | os.PathLike[str]) -> Path:
    """Returns a path on this machine's disks, with the home folder in place of a leading `~`.

    Raises:
        UserError: the home folder is unknown, as that of a user id without a name.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            f"{path}: the home folder is unknown; set HOME (for caches, XDG_CACHE_HOME will do), or"
            " write the whole path."
        ) from None


@contextlib.contextmanager
def on_disk(source: Place) -> Iterator[Path]:
    """Yields the file or folder on this machine's disk: itself, or a temporary copy of objects.

    If the source does not exist, neither does the path that is yielded.
    """
    if not isinstance(source, ObjectPath):
        yield source
        return
    with tempfile.TemporaryDirectory(prefix="palmscale-") as folder:
        copy = Path(folder) / source.name
        if source.is_file():
            copy.write_bytes(source.read_bytes())
        for path in source.rglob("*"):
            to = copy / path.relative_to(source)
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(path.read_bytes())
        yield copy
