"""What a mistyped name may have meant."""

import difflib
from collections.abc import Iterable

SHOWN = 12  # Longer lists of known names are noise in a one-line message.


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Returns the known name most like `name`, or None where none is near.

    Case is ignored, and a dotted name is also found by its last part: `palm` finds `model.PaLM`.
    """
    spellings: dict[str, str] = {}
    for full in known:
        spellings.setdefault(full.casefold().rpartition(".")[2], full)
        spellings[full.casefold()] = full
    close = difflib.get_close_matches(name.casefold(), spellings, n=1, cutoff=0.6)
    return spellings[close[0]] if close else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns the end of an error message: the nearest known name, or else a few known ones."""
    known = sorted(known)
    if match := nearest(name, known):
        return f"; did you mean {match}?"
    if not known:
        return ""
    return f"; known: {', '.join(known[:SHOWN])}{', ...' if len(known) > SHOWN else ''}"
