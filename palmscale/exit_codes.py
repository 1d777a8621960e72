"""What an exception means to whoever started the command: an exit code and one line.

Exit codes: 0 done, 1 a fault, 2 the user's mistake, 3 a plan that does not fit, 75 restart me, 130
interrupted, 141 the reader of the output is gone.
"""

import errno
from typing import Any

from palmscale.errors import AskedToEnd, HostLost, NotSaved, UserError

FAULT, MISTAKE, DOES_NOT_FIT, RESTART_ME, INTERRUPTED, UNREAD = 1, 2, 3, 75, 130, 141

_LINE = 1000  # characters at most
# What no restart mends: the path that was given cannot be one, or is another user's.
_PATH = (
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR),
    *(errno.EACCES, errno.EPERM, errno.EROFS),
)
# Words of the runtime's errors when another host is gone: gloo on CPUs, gRPC and XLA elsewhere.
_LOST = (
    "Gloo",
    "gloo",
    "Connection reset",
    "Connection closed",
    "Socket closed",
    "heartbeat",
    "UNAVAILABLE",
    "coordination service",
)


def exit_code_and_line(error: BaseException) -> tuple[int, str]:
    """Returns the exit code of an exception, and one line that says what happened."""
    if isinstance(error, UserError):
        return MISTAKE, one_line(error)
    if isinstance(error, OSError) and error.errno in _PATH and error.filename is not None:
        return MISTAKE, one_line(f"{error.strerror}: {error.filename}; name another path.")
    if isinstance(error, HostLost | AskedToEnd):
        return RESTART_ME, one_line(error)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, f"interrupted{': ' * bool(str(error))}{error}"
    if isinstance(error, NotSaved):
        return FAULT, one_line(error)
    return FAULT, f"{type(error).__name__}: {one_line(error)}"


def is_lost_host(error: BaseException) -> bool:
    """Returns whether the runtime reports that another host is gone."""
    return type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError") and any(
        word in str(error) for word in _LOST
    )


def one_line(message: Any) -> str:
    """Returns the first line of a message, with escapes for what a terminal would obey."""
    return printable(str(message).strip().partition("\n")[0][:_LINE]) or "no message"


def printable(text: str) -> str:
    """Returns a text with escapes for newlines and whatever else a terminal would obey."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
