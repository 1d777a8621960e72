"""Where a run is kept: a folder that its hosts see, or a folder of an object store."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from palmscale.storage.objects import SCHEME, ObjectPath

Place = Path | ObjectPath


def place(path: "str | os.PathLike[str] | ObjectPath") -> Place:
    """Returns the path of a folder on a disk, or of a folder in a bucket for a gs:// URL."""
    if isinstance(path, ObjectPath):
        return path
    text = os.fspath(path)
    if text.startswith(SCHEME):
        return ObjectPath(text.rstrip("/"))
    return Path(text)


@contextlib.contextmanager
def on_disk(source: Place) -> Iterator[Path]:
    """Yields the file or folder as one of this machine's disk: itself, or a copy for that long.

    What is not there is not there on the disk either.
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
