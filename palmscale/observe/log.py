"""Messages to the user on stderr, which never break the live progress line."""

import contextlib
import logging

import rich.console

from palmscale.observe.controls import escaped


class _Console(rich.console.Console):
    def on_broken_pipe(self) -> None:
        """Goes on, where rich would exit: a run outlives the reader of its log."""


# Shared with progress.py: rich keeps text above a live line only if both use the same console.
console = _Console(stderr=True)

_logger = logging.getLogger("palmscale")
# These libraries log every file and handler at INFO or WARNING; their errors are still shown.
_CHATTY = (
    "absl",
    "orbax",
    "jax._src.distributed",
    "jax._src.xla_bridge",
    "tensorflow",
    "etils",
    "tensorboardX",
)


def say(message: str) -> None:
    """Logs an informational message."""
    _logger.info(message)


def warn(message: str) -> None:
    """Logs a warning: something went wrong, but the run continues."""
    _logger.warning(message)


def show(line: str) -> None:
    """Prints a line; on a full disk rich keeps it, and prints it together with the next one."""
    with contextlib.suppress(OSError):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def set_up(*, process_index: int = 0, process_count: int = 1) -> None:
    """Sends `say` and `warn` to stderr and silences noisy libraries; may be called again.

    With several processes, each line starts with the process index, and only process 0 logs
    informational messages, which would be the same everywhere. Before this is called, Python's
    defaults apply: only warnings are shown.
    """
    prefix = f"[{process_index}] " if process_count > 1 else ""
    _logger.handlers = [_ConsoleHandler(prefix)]
    _logger.setLevel(logging.INFO if process_index == 0 else logging.WARNING)
    _logger.propagate = False  # absl installs its own handler on the root logger
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)


class _ConsoleHandler(logging.Handler):
    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = prefix

    def emit(self, record: logging.LogRecord) -> None:
        kind = "warning: " if record.levelno == logging.WARNING else ""
        show(self._prefix + kind + escaped(record.getMessage()))
