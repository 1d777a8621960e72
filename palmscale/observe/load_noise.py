"""What TensorFlow's C++ prints while it is imported, kept off the screen."""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

# Severity, time and C++ file, in the formats of TensorFlow's own logging and of Abseil's.
_NOISE = re.compile(
    rb"^(WARNING: All log messages before absl::InitializeLog"
    rb"|[IWE]\d{4} [\d:.]+ +\d+ \S+\.cc:\d+\]"
    rb"|\d{4}-\d\d-\d\d [\d:.]+: [IWE] \S+\.cc:\d+\]"
    rb"|To enable the following instructions: )"
)


@contextlib.contextmanager
def without_load_noise() -> Iterator[None]:
    """Holds back what is printed on stderr, then prints all of it but TensorFlow's log lines.

    For the import of a module that may import TensorFlow. No setting silences these lines: they are
    written before TensorFlow sets up its logging. If the import fails, all lines are printed.
    """
    with contextlib.ExitStack() as stack:
        try:
            sys.stderr.flush()
            stderr = os.dup(2)
        except (AttributeError, OSError, ValueError):  # stderr is closed: there is nothing to hold
            yield
            return
        held = stack.enter_context(tempfile.TemporaryFile())
        out = stack.enter_context(os.fdopen(stderr, "wb"))
        os.dup2(held.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            held.seek(0)
            out.writelines(line for line in held if failed or not _NOISE.search(line))
