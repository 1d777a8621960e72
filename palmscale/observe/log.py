"""What the program says to a person: lines on stderr that never tear the live progress."""

import logging

import rich.console

# Shared with progress.py: rich prints other text above a live line only on the line's own console.
console = rich.console.Console(stderr=True)

_logger = logging.getLogger("palmscale")
# They report each file and each handler at INFO or WARNING; errors still come through.
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
    """Tells a person what happens."""
    _logger.info(message)


def warn(message: str) -> None:
    """Tells a person what went wrong though the run goes on."""
    _logger.warning(message)


def set_up(*, process_index: int = 0, process_count: int = 1) -> None:
    """Sends `say` and `warn` to stderr and silences the libraries' chatter; may be called again.

    With several processes each line begins with the process index, and only process 0 says what
    happens: all would say the same. Until it is called Python's own defaults hold: warnings are
    shown, the rest is not.
    """
    prefix = f"[{process_index}] " if process_count > 1 else ""
    _logger.handlers = [_ConsoleHandler(prefix)]
    _logger.setLevel(logging.INFO if process_index == 0 else logging.WARNING)
    _logger.propagate = False  # absl puts a handler of its own on the root logger
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)


class _ConsoleHandler(logging.Handler):
    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._prefix = prefix

    def emit(self, record: logging.LogRecord) -> None:
        kind = "warning: " if record.levelno == logging.WARNING else ""
        console.print(
            self._prefix + kind + record.getMessage(), markup=False, highlight=False, soft_wrap=True
        )
