"""What went wrong in a SeqIO task or a TensorFlow dataset, in one line."""

import re
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from palmscale.errors import UserError

# Of TensorFlow: a later try may succeed.
_PASSING = ("UnavailableError", "DeadlineExceededError", "AbortedError", "ResourceExhaustedError")
_NAMED = re.compile(r"^\s*(\w*(?:Error|Exception): .*)$", re.MULTILINE)
_PLACE = re.compile(r'File "([^"]+)", line (\d+)')
_LIBRARY = re.compile(r"/site-packages/|/palmscale/data/")
_GRAPH = re.compile(r"\{\{.*?\}\}\s*|Error in user-defined function .*?: (?=\w)(?!Iterator)")
_ITERATOR = re.compile(r"^Iterator::\S+: ")

_T = TypeVar("_T")


def explained(read: Callable[[], Iterable[_T]], what: str) -> Iterator[_T]:
    """Yields the examples of `read()`, which runs a user's code.

    Raises:
        UserError: it raised; the message begins with `what` and names the cause and its place.
        RuntimeError: reading failed in a way that may pass.
    """
    try:
        yield from read()
    except UserError:
        raise
    except Exception as error:
        if type(error).__name__ in _PASSING:
            message = f"reading {what} failed ({cause(error)}); start again: finished work is kept."
            raise RuntimeError(message) from error
        raise UserError(
            f"{what} cannot be read: {cause(error)}; correct the task's source or preprocessors."
        ) from error


def cause(error: Exception) -> str:
    """Returns "ValueError: the message (tasks.py:12)", from within what TensorFlow wraps it in."""
    text = str(error)
    places = _PLACE.findall(text)
    if places and (named := _NAMED.findall(text)):
        message = named[-1]
    else:
        first = (text.strip().splitlines() or [""])[0]
        message = f"{type(error).__name__}: {_ITERATOR.sub('', _GRAPH.sub('', first))}"
    frames = traceback.extract_tb(error.__traceback__)
    places = places or [(frame.filename, str(frame.lineno)) for frame in frames]
    own = [place for place in places if not _LIBRARY.search(place[0])]
    return f"{message} ({':'.join(own[-1])})" if own else message
