"""The values that flags take; a wrong one raises ArgumentTypeError, which argparse reports."""

import argparse
import re
from collections.abc import Callable

from palmscale.errors import UserError
from palmscale.storage.place import local_path


def checkpoint(text: str) -> str | int:
    """Returns `latest`, `best` or a step number."""
    return _named_or_step(text, ("latest", "best"))


def checkpoint_or_all(text: str) -> str | int:
    """Returns `all`, `latest`, `best` or a step number."""
    return _named_or_step(text, ("all", "latest", "best"))


def path(text: str) -> str:
    """Returns the path of a file, or its URL; a leading `~` is the home folder."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; give a path")
    try:
        return text if "://" in text else str(local_path(text))
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def workdir(text: str) -> str:
    """Returns the path of a folder, or the URL of one in a bucket of Google Cloud Storage."""
    # A bucket's name as Google Cloud Storage allows it, and no empty folder.
    bucket = r"gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/[^/]+)*/?"
    if "://" in text and not re.fullmatch(bucket, text):
        raise argparse.ArgumentTypeError(
            f"{text} is not a folder or bucket for a run; give a folder that all hosts see, or"
            " gs://BUCKET/PATH"
        )
    return path(text)


def _named_or_step(text: str, names: tuple[str, ...]) -> str | int:
    if text in names:
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(
            f"{text} is not a checkpoint; give {', '.join(names)} or a step number"
        )
    return int(text)


def at_least(kind: type, least: float, most: float | None = None) -> Callable[[str], float]:
    """Returns a function that turns text into a finite number of that type and range."""

    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text} is not a number of type {kind.__name__}"
            ) from None
        if not least <= value < float("inf") or (most is not None and value > most):
            known = f"{least} or more" if most is None else f"{least} to {most}"
            raise argparse.ArgumentTypeError(f"{text} is out of range; give {known}")
        return value

    return convert


def share(text: str) -> float:
    """Returns a number above 0 and at most 1."""
    value = at_least(float, 0)(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is out of range; give more than 0 and at most 1")
    return value


def stage(text: str) -> str:
    """Returns which batches to plan: `largest`, `all`, or a number of sequences."""
    if text in ("largest", "all") or (text.isdecimal() and int(text) > 0):
        return text
    raise argparse.ArgumentTypeError(
        f"{text!r} is wrong; give largest, all, or a number of sequences"
    )
