"""Python's garbage collector, run at the same steps on all hosts."""

import contextlib
import gc
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def garbage_collected_together() -> Iterator[Callable[[], None]]:
    """Keeps Python's collector from pausing one host while the others wait; all collect at once."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield lambda: gc.collect(1)
    finally:
        if was_enabled:
            gc.enable()
