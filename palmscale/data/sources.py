"""Where text comes from: files, jsonl, directories of source code, or this Python's own library."""

import glob
import hashlib
import json
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from palmscale.errors import UserError

TRAIN, VALIDATION = "train", "validation"
_NOT_SOURCE = {"__pycache__", "site-packages", "dist-packages", "test", "tests"}
_KINDS = ("text_files", "jsonl_files", "source_directories", "mixture_or_task")


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Which text to train on and how much to hold out; by default the standard library's sources.

    At most one of the first four is given. `text_files` are globs of UTF-8 files, a document each;
    `jsonl_files` globs of files with an object {"text": ...} on each line; `source_directories` are
    searched for files ending in `suffixes`; `mixture_or_task` is a name in SeqIO's registries.

    Held out are whole units, so that nothing is learned from the rest of the same one: files of
    text or jsonl (documents, where there is one jsonl file), top-level packages or modules of
    source code. They are taken in the order of their name's sha256 until `held_out_fraction` of the
    bytes is reached. A lone unit is never held out. A mixture or task has its own split
    "validation", or none.
    """

    text_files: str | tuple[str, ...] | None = None
    jsonl_files: str | tuple[str, ...] | None = None
    source_directories: str | tuple[str, ...] | None = None
    suffixes: tuple[str, ...] = (".py",)
    mixture_or_task: str | None = None
    held_out_fraction: float = 0.05

    def __post_init__(self):
        given = [kind for kind in _KINDS if getattr(self, kind)]
        if len(given) > 1:
            raise UserError(
                f"{' and '.join(kind.upper() for kind in given)} are both given - a run trains on"
                f" one corpus - keep one of {', '.join(kind.upper() for kind in _KINDS)}"
            )
        if not 0 <= self.held_out_fraction < 1:
            raise UserError(
                f"HELD_OUT_FRACTION={self.held_out_fraction} - needed is a part of the text, from 0"
                " to below 1 - use for example 0.05"
            )
        for field in ("text_files", "jsonl_files", "source_directories", "suffixes"):
            value = getattr(self, field)
            object.__setattr__(
                self, field, (value,) if isinstance(value, str) else tuple(value or ())
            )

    @property
    def kind(self) -> str:
        """The field that is given, or "stdlib"."""
        return next((kind for kind in _KINDS if getattr(self, kind)), "stdlib")

    def definition(self) -> dict[str, Any]:
        """Returns the fields that define the text, ready for JSON."""
        return {"kind": self.kind} | {key: value for key, value in asdict(self).items() if value}


@dataclass(frozen=True, order=True)
class SourceFile:
    """A file of a corpus: its name within the corpus, and the unit that is held out with it."""

    name: str
    unit: str
    path: str


def find_files(corpus: Corpus) -> list[SourceFile]:
    """Returns the corpus's files by name; a mixture or task has none here.

    Raises UserError when a pattern or a directory gives no file, naming where it looked.
    """
    match corpus.kind:
        case "mixture_or_task":
            return []
        case "text_files" | "jsonl_files":
            return _globbed(getattr(corpus, corpus.kind), corpus.kind.upper())
        case "source_directories":
            return _source_files(corpus.source_directories, corpus.suffixes)
    return _source_files((sysconfig.get_path("stdlib"),), (".py",))


def fingerprint(corpus: Corpus) -> list[dict[str, Any]]:
    """Returns {"name", "bytes", "sha256"} of each file, reading all of them."""
    prints = []
    for file in find_files(corpus):
        with _open(file) as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        prints.append({"name": file.name, "bytes": os.path.getsize(file.path), "sha256": digest})
    return prints


def documents(corpus: Corpus, split: str) -> Iterator[tuple[str, str]]:
    """Yields (name, text) of each document of "train" or "validation", in the order of names.

    Documents without text are left out. Raises UserError with the file, and the place in it, where
    text is not what it should be; and when the corpus has no text at all.
    """
    files = find_files(corpus)
    if not any(os.path.getsize(file.path) for file in files):
        raise UserError(
            f"the corpus is empty: none of its {len(files)} files has any text - at least some text"
            f" is needed - correct {corpus.kind.upper()}"
        )
    if corpus.kind == "jsonl_files":
        yield from _jsonl_documents(corpus, files, split)
        return
    sizes: dict[str, int] = {}
    for file in files:
        sizes[file.unit] = sizes.get(file.unit, 0) + os.path.getsize(file.path)
    held_out = _held_out(sizes, corpus.held_out_fraction)
    for file in files:
        if (file.unit in held_out) == (split == VALIDATION):
            text = _read_text(file, skip_undecodable=corpus.kind == "stdlib")
            if text:
                yield file.name, text


def _held_out(sizes: dict[str, int], fraction: float) -> set[str]:
    if len(sizes) < 2 or not fraction:
        return set()
    wanted, held, units = fraction * sum(sizes.values()), 0, set()
    by_hash = sorted(sizes, key=lambda name: hashlib.sha256(name.encode()).digest())
    for unit in by_hash[:-1]:  # some unit always stays for training
        if units and held >= wanted:
            break
        units.add(unit)
        held += sizes[unit]
    return units


def _read_text(file: SourceFile, *, skip_undecodable: bool) -> str:
    with _open(file) as stream:
        content = stream.read()
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        if skip_undecodable:
            return ""
        raise UserError(
            f"{file.path}: byte {error.start} is not UTF-8 - text must be UTF-8 - convert the file,"
            " for example with iconv, or leave it out"
        ) from None


def _jsonl_documents(
    corpus: Corpus, files: list[SourceFile], split: str
) -> Iterator[tuple[str, str]]:
    if len(files) > 1:
        sizes = {file.unit: os.path.getsize(file.path) for file in files}
    else:
        with _open(files[0]) as stream:
            sizes = {
                f"{files[0].name}:{i}": len(line)
                for i, line in enumerate(stream, 1)
                if line.strip()
            }
    held_out = _held_out(sizes, corpus.held_out_fraction)
    for file in files:
        with _open(file) as stream:
            for number, line in enumerate(stream, 1):
                name = f"{file.name}:{number}"
                unit = file.unit if len(files) > 1 else name
                if line.strip() and (unit in held_out) == (split == VALIDATION):
                    text = _line_text(line, f"{file.path}:{number}")
                    if text:
                        yield name, text


def _line_text(line: bytes, place: str) -> str:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{place}: byte {error.start} of the line is not UTF-8 - text must be UTF-8 - convert"
            " the file or leave the line out"
        ) from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{place}: not JSON ({error.msg} at column {error.colno}) - each line must be an object"
            " with"
            ' the key "text" - correct the line'
        ) from None
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        raise UserError(
            f'{place}: no string under the key "text" - each line must be an object such as'
            ' {"text": "..."} - correct the line'
        )
    try:
        value["text"].encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{place}: the text has half of a surrogate pair at character {error.start}, which"
            " UTF-8 cannot hold - text must be Unicode - correct the line"
        ) from None
    return value["text"]


def _globbed(patterns: tuple[str, ...], macro: str) -> list[SourceFile]:
    paths = set()
    for pattern in patterns:
        expanded = os.path.expanduser(pattern)
        found = {
            os.path.abspath(p) for p in glob.glob(expanded, recursive=True) if os.path.isfile(p)
        }
        if not found:
            raise UserError(
                f"{macro}={pattern!r} matches no file in {os.path.abspath(_glob_root(expanded))} -"
                f" at least one is needed - correct {macro}"
            )
        paths |= found
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    names = {os.path.relpath(path, root): path for path in paths}
    return [SourceFile(name=name, unit=name, path=names[name]) for name in sorted(names)]


def _glob_root(pattern: str) -> str:
    # Where a glob starts to look: its path up to the first wildcard.
    parts = Path(pattern).parts[:-1]
    fixed = [part for i, part in enumerate(parts) if not any(map(glob.has_magic, parts[: i + 1]))]
    return os.path.join(*fixed) if fixed else os.curdir


def _source_files(directories: tuple[str, ...], suffixes: tuple[str, ...]) -> list[SourceFile]:
    roots = [os.path.abspath(os.path.expanduser(directory)) for directory in directories]
    base, files = os.path.commonpath(roots), {}
    for root in roots:
        if not os.path.isdir(root):
            raise UserError(
                f"SOURCE_DIRECTORIES has {root!r}, which is not a directory - needed are existing"
                " directories - correct SOURCE_DIRECTORIES"
            )
        found = list(_walk(root, suffixes))
        if not found:
            raise UserError(
                f"no file in {root} ends in {' or '.join(suffixes)} - at least one is needed -"
                " correct SOURCE_DIRECTORIES or SUFFIXES"
            )
        for path in found:
            top = Path(path).relative_to(root).parts[0]
            unit = os.path.relpath(os.path.join(root, top), base)
            files[path] = SourceFile(name=os.path.relpath(path, base), unit=unit, path=path)
    return sorted(files.values())


def _walk(root: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    for directory, below, names in os.walk(root):
        below[:] = [d for d in below if d not in _NOT_SOURCE and not d.startswith(".")]
        yield from (os.path.join(directory, name) for name in names if name.endswith(suffixes))


def _open(file: SourceFile):
    try:
        return open(file.path, "rb")
    except OSError as error:
        raise UserError(
            f"{file.path} cannot be read ({error.strerror}) - every file of the corpus must be -"
            " correct its permissions or leave it out"
        ) from None
