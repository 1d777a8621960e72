"""Files that stored data names: they lie inside their folder, and are read within limits.

A downloaded folder may name any file, hold links, and hold what is no file at all, such as a named
pipe, which would never end.
"""

import os
import stat
from pathlib import Path, PurePosixPath

from palmscale.errors import CorruptionError
from palmscale.storage.place import Place

_MOST_CHARACTERS, _MOST_BYTES_OF_A_PART = 1000, 255  # file systems allow no longer names


def inside(folder: Place, name: str) -> Place:
    """Returns the path of the file that `name`, a relative path, names in `folder`.

    It may be absent.

    Raises:
        CorruptionError: the name or a link leads out of the folder, or it names no regular file.
    """
    path = PurePosixPath(name)
    too_long = len(name) > _MOST_CHARACTERS or any(
        len(part.encode()) > _MOST_BYTES_OF_A_PART for part in path.parts
    )
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name or too_long:
        raise CorruptionError(
            f"{folder} names the file {name[:100]!r}; expected a relative path inside the folder:"
            " use an intact copy."
        )
    found = folder / name
    if isinstance(found, Path):
        _check_on_disk(found, os.path.realpath(folder))
    return found


def check_links(folder: Place) -> None:
    """Checks that everything in a folder is a folder or regular file inside it.

    Raises:
        CorruptionError: something is not; it is named. An object store has neither links nor pipes.
    """
    if not isinstance(folder, Path):
        return
    root = os.path.realpath(folder)
    for parent, folders, files in os.walk(folder):
        for name in folders:
            _check_contained(Path(parent, name), root)
        for name in files:
            _check_on_disk(Path(parent, name), root)


def read_limited(path: Place, most_bytes: int) -> bytes:
    """Returns the content of a file of at most `most_bytes`.

    Raises:
        CorruptionError: the file is larger, lies outside its folder or is no regular file.
        OSError: it cannot be read.
    """
    size = inside(path.parent, path.name).stat().st_size
    if size > most_bytes:
        raise CorruptionError(
            f"{path} has {size:,} bytes; at most {most_bytes:,} are expected: use an intact copy."
        )
    return path.read_bytes()


def _check_on_disk(path: Path, root: str) -> None:
    """Raises CorruptionError for what is no regular file below `root`; it may be absent."""
    real = _check_contained(path, root)
    try:
        mode = os.stat(real).st_mode
    except OSError:  # absent: whoever reads it says so
        return
    if not stat.S_ISREG(mode):
        raise CorruptionError(f"{path} is not a regular file; replace it with a copy of the file.")


def _check_contained(path: Path, root: str) -> str:
    real = os.path.realpath(path)
    if os.path.commonpath([root, real]) != root:
        raise CorruptionError(
            f"{path} is a link that leads out of its folder; replace it with a copy of the file."
        )
    return real
