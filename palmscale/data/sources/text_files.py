"""Sources in which each file is one document: text, source code, Python's standard library."""

import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from palmscale.data.sources import compression, local_files, paths
from palmscale.data.sources.source import BadDocument, Document, SourceShard, TextSource
from palmscale.errors import UserError

_NOT_SOURCE = {"__pycache__", "site-packages", "dist-packages", "test", "tests"}


@dataclass(frozen=True, kw_only=True)
class TextFiles(TextSource):
    """UTF-8 files, one document each, plain or compressed (gzip, zstd, bzip2 or xz).

    Attributes:
        files: a glob pattern, or several; local paths or URLs such as gs://bucket/*.txt.
    """

    field = "TextFiles.files"
    files: str | tuple[str, ...]

    def shards(self) -> list[SourceShard]:
        """Returns one shard per file, sorted by name."""
        return [
            SourceShard(name=file.name, path=file.path, bytes=file.bytes, stamp=file.stamp)
            for file in paths.find(self.files, self.field)
        ]

    def documents(self, shard: SourceShard) -> Iterator[Document | BadDocument]:
        """Yields the file's text."""
        yield _read_text(shard)


@dataclass(frozen=True, kw_only=True)
class SourceDirectories(TextSource):
    """Source code: the files below some directories, without tests.

    Each entry at the top of a directory, such as a package, is held out as a whole.

    Attributes:
        directories: a local path, or several.
        suffixes: of the files to include.
    """

    field = "SourceDirectories.directories"
    directories: str | tuple[str, ...]
    suffixes: tuple[str, ...] = (".py",)

    def shards(self) -> list[SourceShard]:
        """Returns one shard per file, sorted by name.

        Raises:
            UserError: a path is not a directory, or contains no such file.
        """
        given = (self.directories,) if isinstance(self.directories, str) else self.directories
        roots = [os.path.abspath(os.path.expanduser(directory)) for directory in given]
        if not roots:
            raise UserError(f"{self.field} is empty; expected at least one directory.")
        base, shards = os.path.commonpath(roots), {}
        for root in roots:
            if not os.path.isdir(root):
                raise UserError(
                    f"{self.field} contains {root!r}, which is not a directory; use existing"
                    " directories."
                )
            found = [
                os.path.join(folder, name)
                for folder, names in local_files.walk(root, without=_NOT_SOURCE)
                for name in names
                if name.endswith(self.suffixes)
            ]
            if not found:
                raise UserError(
                    f"{self.field} contains {root!r}, in which no file ends in"
                    f" {' or '.join(self.suffixes)}; change the directory or"
                    " SourceDirectories.suffixes."
                )
            for path in found:
                file = paths.local_file(path, self.field)
                top = Path(path).relative_to(root).parts[0]
                shard = SourceShard(
                    name=os.path.relpath(path, base),
                    path=path,
                    holdout_unit=os.path.relpath(os.path.join(root, top), base),
                    bytes=file.bytes,
                    stamp=file.stamp,
                )
                shards.setdefault(local_files.identity(path), shard)
        return sorted(shards.values())

    def documents(self, shard: SourceShard) -> Iterator[Document | BadDocument]:
        """Yields the file's text."""
        yield _read_text(shard)


@dataclass(frozen=True, kw_only=True)
class StandardLibrary(TextSource):
    """The sources of the running Python's standard library: text that every machine has."""

    field = "Corpus.source"

    def shards(self) -> list[SourceShard]:
        """Returns one shard per module, sorted by name."""
        return SourceDirectories(directories=sysconfig.get_path("stdlib")).shards()

    def documents(self, shard: SourceShard) -> Iterator[Document | BadDocument]:
        """Yields the module's text; empty for the few modules that are deliberately not UTF-8."""
        document = _read_text(shard)
        yield Document("") if isinstance(document, BadDocument) else document


def _read_text(shard: SourceShard) -> Document | BadDocument:
    content = bytearray()
    try:
        with paths.open_binary(shard.path) as stream:
            for chunk in compression.chunks(stream, shard.path):
                content += chunk
        return Document(content.decode("utf-8"))
    except compression.Broken as error:
        reason = f"the file cannot be read ({error}); fetch it again, or leave it out."
        return BadDocument(shard.path, reason)
    except UnicodeDecodeError as error:
        return BadDocument(
            shard.path,
            f"byte {error.start} is not UTF-8; convert the file, for example with iconv, or leave"
            " it out.",
        )
