"""What an exception means to whoever started the command: an exit code and one line.

Exit codes: 0 done, 1 a fault, 2 the user's mistake, 75 restart me, 130 interrupted, 141 nobody
reads on.
"""

from typing import Any

from palmscale.errors import HostLost, UserError

FAULT, MISTAKE, RESTART_ME, INTERRUPTED, UNREAD = 1, 2, 75, 130, 141

_LINE = 1000  # characters that one line may have
# In what the runtime says when another host is gone: gloo on CPUs, gRPC and XLA elsewhere.
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


def outcome(error: BaseException, *, debug: bool = False) -> tuple[int, str]:
    """Returns the exit code and the line for a person."""
    if isinstance(error, UserError):
        return MISTAKE, one_line(error)
    if isinstance(error, HostLost):
        return RESTART_ME, one_line(error)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted"
    remedy = "" if debug else " - run again with --debug for the traceback"
    return FAULT, f"{type(error).__name__}: {one_line(error)}{remedy}"


def is_lost_host(error: BaseException) -> bool:
    """Returns whether the runtime speaks of another host, and not of this one's own work."""
    return type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError") and any(
        word in str(error) for word in _LOST
    )


def one_line(message: Any) -> str:
    """Returns the first line of a message."""
    lines = str(message).strip().splitlines()
    return lines[0][:_LINE] if lines else "no message"
