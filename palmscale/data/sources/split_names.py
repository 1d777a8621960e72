"""Which split a file or a split of a published dataset is, by the names that people give them."""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from palmscale.data.sources.source import TRAIN, VALIDATION

# In order of preference: a dataset that has both `dev` and `eval` is evaluated on `dev`.
_NAMES = {
    TRAIN: ("train", "training"),
    VALIDATION: ("validation", "valid", "val", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}
_KNOWN = frozenset(name for names in _NAMES.values() for name in names)

_T = TypeVar("_T")


def renamed(splits: Mapping[str, _T]) -> dict[str, _T]:
    """Returns the splits, of which the one to evaluate on is named "validation", if there is one.

    Likewise "train". All others keep their names.
    """
    result = dict(splits)
    for target in (TRAIN, VALIDATION):
        given = {name.lower(): name for name in splits}
        found = next((given[name] for name in _NAMES[target] if name in given), target)
        if found != target and target not in splits:
            result[target] = result.pop(found)
    return result


def by_split(paths: Iterable[str]) -> dict[str, list[str]]:
    """Returns the relative paths of a dataset's files by split, of which none is empty.

    The outermost folder whose name contains that of a split decides, else the file's name:
    `test/part-0.jsonl`, `my_dataset-val.jsonl`. Files without a split in their name are trained on
    if no other file is.
    """
    named: dict[str, list[str]] = {}
    for path in paths:
        named.setdefault(_name_in(path), []).append(path)
    if not any(name in named for name in _NAMES[TRAIN]) and "" in named:
        named[TRAIN] = named[""]
    named.pop("", None)
    splits: dict[str, list[str]] = {}
    for name, files in named.items():
        # `train` and `training`, and `test` and `testing`, are the same.
        target = next((t for t in (TRAIN, "test") if name in _NAMES[t]), name)
        splits.setdefault(target, []).extend(files)
    return renamed(splits)


def _name_in(path: str) -> str:
    """Returns the name of a split in a path; empty: there is none."""
    for part in path.split("/"):
        words = set(re.split(r"[\W\d_]+", part.lower())) & _KNOWN
        # What may be a test set is never trained on.
        for names in (_NAMES["test"], _NAMES[VALIDATION], _NAMES[TRAIN]):
            if found := next((name for name in names if name in words), ""):
                return found
    return ""
