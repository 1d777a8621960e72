"""Summaries of trees of arrays, and readable descriptions of how two of them differ."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from palmscale.checkpoint.fingerprint import fingerprint
from palmscale.exit_codes import printable
from palmscale.trees import named_leaves

_NAMES_SHOWN = 8


def summarize(tree: Any) -> dict[str, dict[str, Any]]:
    """Returns {'shape', 'dtype', 'fingerprint'} of each array of `tree`, by path."""
    prints = fingerprint(tree)
    return {
        name: {**shape, "fingerprint": prints.get(name)} for name, shape in shapes(tree).items()
    }


def shapes(tree: Any) -> dict[str, dict[str, Any]]:
    """Returns {'shape', 'dtype'} of each array of `tree`, which may be abstract, by path."""
    return {
        name: {"shape": list(np.shape(leaf)), "dtype": str(leaf.dtype)}
        for name, leaf in named_leaves(tree).items()
    }


def mismatches(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Returns a line for each name, shape or dtype that differs between two summaries."""
    lines = []
    if missing := wanted.keys() - stored.keys():
        lines.append(f"missing in the checkpoint: {listed(missing)}")
    if extra := stored.keys() - wanted.keys():
        lines.append(f"extra in the checkpoint: {listed(extra)}")
    for name in sorted(stored.keys() & wanted.keys()):
        there, here = (
            printable(f"{array['dtype']}{array['shape']}") for array in (stored[name], wanted[name])
        )
        if there != here:
            lines.append(f"{printable(name)} is {there} in the checkpoint and {here} in the model")
    if len(lines) > _NAMES_SHOWN:
        lines[_NAMES_SHOWN:] = [f"and {len(lines) - _NAMES_SHOWN} more"]
    return lines


def listed(names: Iterable[Any]) -> str:
    """Returns the names sorted and joined by commas; beyond the first few, only their number."""
    names = sorted(names)
    rest = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(printable(str(name)) for name in names[:_NAMES_SHOWN]) + rest
