"""metrics.jsonl in an object store, where objects cannot be appended to and are written whole."""

import concurrent.futures
import math
import time
from collections.abc import Mapping

from palmscale.observe import log
from palmscale.observe.metric_lines import JsonLines, json_line, lines_before
from palmscale.observe.writers import MetricWriter
from palmscale.storage.objects import ObjectPath
from palmscale.storage.place import Place

_PAUSE_SECONDS = 10.0
_BYTES_PER_SECOND = 1 << 20  # largest average rate of rewriting earlier lines


def json_lines(path: Place) -> MetricWriter:
    """Returns a writer of one JSON line per step to `path`, a file or an object."""
    return UploadedLines(path) if isinstance(path, ObjectPath) else JsonLines(path)


class UploadedLines:
    """Writes one JSON line per step, in order, to the object `path`, after the lines already there.

    The lines are kept in memory, about 200 bytes per step. A thread uploads them at most every 10
    seconds, less often if the object is large, and at `flush`. A failed upload is retried with the
    next lines, so no line is lost.
    """

    def __init__(self, path: ObjectPath) -> None:
        self._path = path
        self._lines: bytearray | None = None  # the object's lines and new ones; None: not read yet
        self._last = 0  # the step of the last line
        self._is_changed = False
        self._is_warned = False
        self._last_try = time.monotonic()
        self._uploader = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="metrics")
        self._pending: concurrent.futures.Future[None] | None = None

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds the line {"step": step, ...metrics}."""
        lines = self._read()
        lines += json_line(step, metrics, after=self._last)
        self._last = step
        self._is_changed = True
        pause = max(_PAUSE_SECONDS, len(lines) / _BYTES_PER_SECOND)
        if time.monotonic() - self._last_try >= pause and self._ended():
            self._upload()

    def truncate_from(self, step: int) -> None:
        """Drops the lines of `step` and later, so that a resumed run has one line per step."""
        lines = self._read()
        kept, self._last = lines_before(step, bytes(lines), self._path.name)
        if kept != lines:
            self._lines, self._is_changed = bytearray(kept), True

    def flush(self) -> None:
        """Uploads the lines added so far and waits for the upload."""
        self._ended(wait=True)
        if self._is_changed:
            self._upload()
            self._ended(wait=True)

    def close(self) -> None:
        """Uploads the lines added so far.

        Raises:
            OSError: the upload failed.
        """
        self.flush()
        if self._is_changed:
            self._path.write_bytes(bytes(self._read()))
            self._is_changed = False

    def _read(self) -> bytearray:
        if self._lines is None:
            try:
                found = self._path.read_bytes()
            except FileNotFoundError:
                found = b""
            kept, self._last = lines_before(math.inf, found, self._path.name)
            self._lines, self._is_changed = bytearray(kept), kept != found
        return self._lines

    def _upload(self) -> None:
        self._last_try, self._is_changed = time.monotonic(), False
        self._pending = self._uploader.submit(self._path.write_bytes, bytes(self._read()))

    def _ended(self, wait: bool = False) -> bool:
        """Returns whether no upload is in progress; schedules a failed one again."""
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
                log.warn(f"{self._path.name} could not be written and will be retried: {error}")
            self._is_warned = True
        else:
            self._is_warned = False
        return True
