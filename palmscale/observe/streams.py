"""Standard streams that are closed, or lie on a full disk, and do not end the command for it."""

import contextlib
import io
import os
import sys
from typing import Any, TextIO


def open_standard_streams() -> None:
    """Makes closed standard streams /dev/null, and lets standard error lose what does not fit.

    A descriptor that stayed closed would be given to the next file that is opened, and whatever
    libraries print would be written into it. Lines that standard error cannot take, because the
    disk below it is full or its reader is gone, are counted; the next line that it takes says so.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    sys.stdout = sys.stdout or _null(1)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that a terminal's encoding lacks is written as its code, as on standard error.
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.stderr = LossyStream(sys.stderr or _null(2))


def close_standard_streams() -> None:
    """Writes what is left, so that Python does not fail at it while it exits."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(ValueError):  # someone has closed it
            try:
                stream.flush()
            except OSError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class LossyStream:
    """A text stream that loses what its file cannot take, instead of raising OSError.

    It does not buffer, so that what could not be written is not written later, out of place. All
    but writing is left to the given stream, whose descriptor it writes to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._lost = stream, 0

    def write(self, text: str) -> int:
        """Writes the text, or loses it; returns its length either way."""
        note = f"({self._lost} line(s) could not be written here)\n" if self._lost else ""
        rest = (note + text).encode(self._stream.encoding, self._stream.errors)
        try:
            while rest:
                rest = rest[os.write(self._stream.fileno(), rest) :]
            self._lost = 0
        except OSError:
            self._lost += text.count("\n")
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Writes each of them."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Does nothing, as nothing is buffered."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _null(descriptor: int) -> TextIO:
    return open(descriptor, "w", encoding="utf-8", closefd=False)
