"""Files in local folders, by glob pattern or all of them.

Linked folders are entered, each real folder once. Hidden files and folders, whose names start with
a dot, are left out unless a pattern names the dot.
"""

import collections
import fnmatch
import itertools
import os
from collections.abc import Collection, Iterator, Sequence

from palmscale.errors import UserError

_MAGIC = frozenset("*?[")
_SEEN_NAMES = 1000  # to find the usual suffix


def glob(pattern: str) -> list[str]:
    """Returns the absolute paths of the files that match, sorted; `**` spans folders.

    A part of the pattern that exists as it is written stands for itself: `data[v2]/*.txt`.

    Raises:
        UserError: a folder cannot be read.
    """
    path = os.path.join(os.getcwd(), os.path.expanduser(pattern))
    found: dict[tuple[str, str], str] = {}
    for file in sorted(set(_expand("/", [part for part in path.split("/") if part]))):
        found.setdefault(identity(file), file)
    return sorted(
        os.path.join(*known) if ".." in file.split("/") else file for known, file in found.items()
    )


def identity(file: str) -> tuple[str, str]:
    """Returns what is equal for two spellings of a file's path, or two links to its folder."""
    folder, name = os.path.split(file)
    return os.path.realpath(folder), name


def walk(folder: str, without: Collection[str] = ()) -> Iterator[tuple[str, list[str]]]:
    """Yields (path, sorted names of its files) of a folder and of those below it, links last.

    Folders named in `without` are left out.

    Raises:
        UserError: a folder cannot be read.
    """
    seen = set[str]()
    pending = collections.deque([folder])
    while pending:
        path = pending.popleft()
        real = os.path.realpath(path)
        if real in seen:
            continue
        seen.add(real)
        entries = [entry for entry in _entries(path) if not entry.name.startswith(".")]
        folders = [e for e in entries if e.is_dir() and e.name not in without]
        yield path, [entry.name for entry in entries if not entry.is_dir()]
        pending.extendleft(e.path for e in reversed(folders) if not e.is_symlink())
        pending.extend(entry.path for entry in folders if entry.is_symlink())


def advice_for_folder(folder: str) -> str:
    """Returns a pattern for the files below a folder, with their most frequent suffix."""
    names = (name for _, names in walk(folder) for name in names)
    suffixes = collections.Counter(
        suffix
        for name in itertools.islice(names, _SEEN_NAMES)
        if (suffix := os.path.splitext(name)[1])
    )
    suffix = suffixes.most_common(1)[0][0] if suffixes else ".txt"
    return f"{folder.rstrip('/')}/**/*{suffix}"


def _expand(folder: str, parts: Sequence[str]) -> Iterator[str]:
    """Yields the files below `folder` that match the parts of a pattern."""
    part, *rest = parts
    path = os.path.join(folder, part)
    if part == "**":
        for below, _ in walk(folder) if os.path.isdir(folder) else ():
            yield from _expand(below, rest or ["*"])
    elif not _MAGIC.intersection(part) or os.path.lexists(path):
        if rest:
            yield from _expand(path, rest)
        elif os.path.lexists(path) and not os.path.isdir(path):
            yield path
    elif os.path.isdir(folder):
        for entry in _entries(folder):
            is_hidden = entry.name.startswith(".") and not part.startswith(".")
            if is_hidden or not fnmatch.fnmatchcase(entry.name, part):
                continue
            if rest and entry.is_dir():
                yield from _expand(entry.path, rest)
            elif not rest and not entry.is_dir():
                yield entry.path


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(
            f"the folder {folder} cannot be read ({error.strerror}); correct its permissions, or"
            " leave it out of the corpus."
        ) from None
