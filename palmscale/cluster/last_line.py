"""The last line of a process that is ended from outside, or by C++ code, and cannot print it.

JAX aborts a process once another one of its job is gone, and no Python code runs any more. A shell
that reads a pipe from this process learns of the end, and prints the line that it read last.
"""

import contextlib
import subprocess
from types import TracebackType
from typing import Self

# A terminal's Ctrl-C and a launcher's SIGTERM are for the process, which outlives them to save.
_SCRIPT = """
trap '' INT TERM HUP
while IFS= read -r line; do last=$line; done
[ -z "$last" ] || printf '%s\\n' "$last" >&2
"""


class LastLine:
    """A line that is printed on standard error if this process ends without `close`.

    A context manager; its exit closes.
    """

    def __init__(self, line: str) -> None:
        self._line = ""
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        self.set(line)

    def set(self, line: str) -> None:
        """Replaces the line; an empty one is not printed."""
        if line != self._line:
            self._line = line
            with contextlib.suppress(OSError, ValueError):  # the shell was killed, or is closed
                self._shell.stdin.write(f"{line}\n")
                self._shell.stdin.flush()

    def close(self) -> None:
        """Lets this process end in silence."""
        self.set("")
        with contextlib.suppress(OSError):
            self._shell.stdin.close()
        self._shell.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
