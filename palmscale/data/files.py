"""Sources of which each file is one document: text, directories of code, Python's own library."""

import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from palmscale.data import paths
from palmscale.data.sources import BadDocument, Document, Shard, TextSource
from palmscale.errors import UserError

_NOT_SOURCE = {"__pycache__", "site-packages", "dist-packages", "test", "tests"}


@dataclass(frozen=True, kw_only=True)
class TextFiles(TextSource):
    """UTF-8 files, a document each.

    Attributes:
        files: a glob, or several; local or a URL such as gs://bucket/*.txt.
    """

    setting = "TEXT_FILES"
    files: str | tuple[str, ...]

    def shards(self) -> list[Shard]:
        """Returns a shard for each file, by name."""
        patterns = (self.files,) if isinstance(self.files, str) else self.files
        return [
            Shard(name=file.name, path=file.path, bytes=file.bytes, stamp=file.stamp)
            for file in paths.find(patterns, self.setting)
        ]

    def documents(self, shard: Shard) -> Iterator[Document | BadDocument]:
        """Yields the file's text."""
        yield _read_text(shard)


@dataclass(frozen=True, kw_only=True)
class SourceDirectories(TextSource):
    """Source code: the files below some directories, without tests. Top-level packages are units.

    Attributes:
        directories: local paths.
        suffixes: of the files that count.
    """

    setting = "SOURCE_DIRECTORIES"
    directories: str | tuple[str, ...]
    suffixes: tuple[str, ...] = (".py",)

    def shards(self) -> list[Shard]:
        """Returns a shard for each file, by name.

        Raises UserError for a directory that is none, or has no such file.
        """
        given = (self.directories,) if isinstance(self.directories, str) else self.directories
        roots = [os.path.abspath(os.path.expanduser(directory)) for directory in given]
        base, shards = os.path.commonpath(roots), {}
        for root in roots:
            if not os.path.isdir(root):
                raise UserError(
                    f"{self.setting} has {root!r}, which is not a directory - needed are existing"
                    f" directories - correct {self.setting}"
                )
            found = list(_walk(root, self.suffixes))
            if not found:
                raise UserError(
                    f"no file in {root} ends in {' or '.join(self.suffixes)} - at least one is"
                    f" needed - correct {self.setting} or its suffixes"
                )
            for path in found:
                top = Path(path).relative_to(root).parts[0]
                shards[path] = Shard(
                    name=os.path.relpath(path, base),
                    path=path,
                    unit=os.path.relpath(os.path.join(root, top), base),
                    bytes=paths.size(path),
                    stamp=paths.stamp(path),
                )
        return sorted(shards.values())

    def documents(self, shard: Shard) -> Iterator[Document | BadDocument]:
        """Yields the file's text."""
        yield _read_text(shard)


@dataclass(frozen=True, kw_only=True)
class StandardLibrary(TextSource):
    """The Python sources of this Python's own library: text that is on every machine."""

    setting = "TEXT_FILES"

    def shards(self) -> list[Shard]:
        """Returns a shard for each module, by name."""
        return SourceDirectories(directories=sysconfig.get_path("stdlib")).shards()

    def documents(self, shard: Shard) -> Iterator[Document | BadDocument]:
        """Yields the module's text; a test of decoders that is not UTF-8 is no document."""
        document = _read_text(shard)
        yield Document("") if isinstance(document, BadDocument) else document


def _read_text(shard: Shard) -> Document | BadDocument:
    with paths.open_binary(shard.path) as stream:
        content = stream.read()
    try:
        return Document(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        return BadDocument(
            shard.path,
            f"byte {error.start} is not UTF-8 - text must be UTF-8 - convert the file, for example"
            " with iconv, or leave it out",
        )


def _walk(root: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    for directory, below, names in os.walk(root):
        below[:] = [d for d in below if d not in _NOT_SOURCE and not d.startswith(".")]
        yield from (os.path.join(directory, name) for name in names if name.endswith(suffixes))
