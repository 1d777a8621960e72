"""metrics.jsonl as a file: one JSON line per step, whatever the disk does to some of them."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from palmscale.observe import log

MISSING = "missing_steps"


def json_line(step: int, metrics: Mapping[str, float], *, after: int) -> bytes:
    """Returns the line {"step": step, ...metrics}; values that are not finite become null.

    If `after`, the step of the line before, is not the step before, the line also has
    "missing_steps": [first, last].
    """
    values = {name: float(value) for name, value in metrics.items()}
    finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
    return _line({"step": step, **finite}, after)


def readable_lines(content: bytes) -> Iterator[dict[str, float]]:
    """Yields the lines that are whole, are JSON, and have a step."""
    return (values for values in map(_values, _whole_lines(content)) if values is not None)


def lines_before(step: float, content: bytes, name: str) -> tuple[bytes, int]:
    """Returns the readable lines before `step`, and the step of the last one, 0 without any.

    A line that follows a hole tells of it; see `json_line`. Damaged lines are warned of by the
    `name` of the file.
    """
    kept, last, damaged = [], 0, 0
    for line in _whole_lines(content):
        values = _values(line)
        if values is None:
            damaged += 1
        elif values["step"] < step:
            told = values["step"] == last + 1 or MISSING in values
            kept.append(line + b"\n" if told else _line(values, last))
            last = values["step"]
    if damaged:
        log.warn(f"{name}: {damaged} damaged line(s) were dropped; the next line names the steps.")
    return b"".join(kept), last


def with_metrics(content: bytes, step: int, metrics: Mapping[str, float]) -> bytes:
    """Returns the readable lines with more metrics of one step, which may have no line yet."""
    lines, last, added = [], -1, json_line(step, metrics, after=step)
    for line in _whole_lines(content):
        values = _values(line)
        if values is None:
            continue
        if values["step"] == step:
            line = json.dumps({**values, **json.loads(added)}).encode()
        elif last < step < values["step"]:
            lines.append(added)
        lines.append(line + b"\n")
        last = values["step"]
    if last < step:
        lines.append(added)
    return b"".join(lines)


def _whole_lines(content: bytes) -> list[bytes]:
    return content.split(b"\n")[:-1]  # what a kill left incomplete has no end


def _values(line: bytes) -> dict[str, float] | None:
    try:
        values = json.loads(line)
    except ValueError:  # also of bytes that are not UTF-8
        return None
    return values if isinstance(values, dict) and type(values.get("step")) is int else None


def _line(values: Mapping[str, object], after: int) -> bytes:
    if values["step"] > after + 1:
        values = {**values, MISSING: [after + 1, values["step"] - 1]}
    return json.dumps(values).encode() + b"\n"


class JsonLines:
    """Writes one JSON line per step, in order, to the file `path`, and buffers nothing.

    If a write fails, nothing of that line stays, and the next write tries anew.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._file: BinaryIO | None = None
        self._is_begun = False
        self._end = math.inf  # lines of this step and later are to be dropped
        self._last = 0  # the step of the last line

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends {"step": step, ...metrics}."""
        file = self._opened()
        rest, start = json_line(step, metrics, after=self._last), file.seek(0, os.SEEK_END)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            self.close()
            os.truncate(self._path, start)
            raise
        self._last = step

    def flush(self) -> None:
        """Does nothing: nothing is buffered."""

    def truncate_from(self, step: int) -> None:
        """Drops the lines of `step` and later, so that a resumed run has one line per step."""
        self.close()
        self._end = step
        self._opened()

    def close(self) -> None:
        """Closes the file; a later write opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> BinaryIO:
        if self._file is not None and self._is_current(self._file):
            return self._file
        self.close()
        if not self._is_begun:  # later on, a folder that is gone must not come back by this
            self._path.parent.mkdir(parents=True, exist_ok=True)
        self._drop()
        self._file = open(self._path, "ab", buffering=0)
        self._is_begun = True
        return self._file

    def _is_current(self, file: BinaryIO) -> bool:
        """Returns whether the path still names the file, which nobody deleted or moved."""
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(file.fileno()))
        except FileNotFoundError:
            return False

    def _drop(self) -> None:
        """Drops the lines that cannot be read, and those of `self._end` and later."""
        content = self._path.read_bytes() if self._path.exists() else b""
        kept, last = lines_before(self._end, content, self._path.name)
        if content.startswith(kept):
            if content != kept:
                os.truncate(self._path, len(kept))  # needs no room
        else:
            partial = self._path.with_name(self._path.name + ".partial")
            partial.write_bytes(kept)
            os.replace(partial, self._path)
        self._last, self._end = last, math.inf
