"""metrics.jsonl in an object store, to which nothing can be appended: it is written as a whole."""

import concurrent.futures
import json
import time
from collections.abc import Mapping

from palmscale.observe import log
from palmscale.observe.writers import JsonLines, MetricWriter, json_line
from palmscale.storage.objects import ObjectPath
from palmscale.storage.place import Place

_PAUSE_SECONDS = 10.0
_BYTES_PER_SECOND = 1 << 20  # at most, on average, of lines that were written before


def json_lines(path: Place) -> MetricWriter:
    """Returns what writes one line of JSON a step to `path`."""
    return UploadedLines(path) if isinstance(path, ObjectPath) else JsonLines(path)


class UploadedLines:
    """One line of JSON a step in the object `path`, in order; those of its steps so far stay.

    The lines are kept in memory, some 200 bytes a step, and written by a thread: every 10 seconds
    at most, a large object less often, and at `flush`. What fails is tried again with the next
    lines, and no line is lost of it.
    """

    def __init__(self, path: ObjectPath) -> None:
        self._path = path
        self._lines: bytearray | None = None  # of the object and after; None: not read yet
        self._is_changed = False
        self._is_warned = False
        self._last_try = time.monotonic()
        self._uploader = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="metrics")
        self._pending: concurrent.futures.Future[None] | None = None

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes {"step": step, ...metrics}."""
        lines = self._read()
        lines += json_line(step, metrics).encode()
        self._is_changed = True
        pause = max(_PAUSE_SECONDS, len(lines) / _BYTES_PER_SECOND)
        if time.monotonic() - self._last_try >= pause and self._ended():
            self._upload()

    def truncate_from(self, step: int) -> None:
        """Drops the lines of `step` and later, so that each step stands once after a resume."""
        lines = bytes(self._read()).splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line)["step"] < step]
        if kept != lines:
            self._lines, self._is_changed = bytearray(b"".join(kept)), True

    def flush(self) -> None:
        """Writes the lines taken so far, and waits for it."""
        self._ended(wait=True)
        if self._is_changed:
            self._upload()
            self._ended(wait=True)

    def close(self) -> None:
        """Writes the lines taken so far. OSError where it fails."""
        self.flush()
        if self._is_changed:
            self._path.write_bytes(bytes(self._read()))
            self._is_changed = False

    def _read(self) -> bytearray:
        if self._lines is None:
            try:
                self._lines = bytearray(self._path.read_bytes())
            except FileNotFoundError:
                self._lines = bytearray()
        return self._lines

    def _upload(self) -> None:
        self._last_try, self._is_changed = time.monotonic(), False
        self._pending = self._uploader.submit(self._path.write_bytes, bytes(self._read()))

    def _ended(self, wait: bool = False) -> bool:
        """Whether no upload is under way; one that failed is to be made again."""
        if self._pending is None:
            return True
        if not wait and not self._pending.done():
            return False
        pending, self._pending = self._pending, None
        try:
            pending.result()
        except OSError as error:
            self._is_changed = True
            if not self._is_warned:
                log.warn(f"{self._path.name} is not written, and is tried again: {error}")
            self._is_warned = True
        else:
            self._is_warned = False
        return True
