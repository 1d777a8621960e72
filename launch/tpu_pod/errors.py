"""How a command ends other than well, and what it prints."""

import sys


class Mistake(Exception):
    """A user error: one line, exit code 2."""


class Fault(Exception):
    """A fault of gcloud, of the TPUs or of the run: one line, exit code 1."""


def say(text: str) -> None:
    """Prints a line for the user, apart from the command's output."""
    print(f"tpu_pod.sh: {text}", file=sys.stderr, flush=True)
