"""`palmscale checkpoint diff`: in which arrays and settings two checkpoints differ."""

import argparse
import dataclasses
from collections.abc import Mapping
from typing import Any

from palmscale.checkpoint import digest
from palmscale.cli import tables
from palmscale.cli.argument_values import checkpoint
from palmscale.cli.checkpoints import chosen, opened
from palmscale.cli.run import differences
from palmscale.errors import UserError

# Of the meta: what happened, and what the gin configuration says better.
_NOT_COMPARED = ("operative_config", "identity", "course")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two: its name for a person, its arrays by path, its settings by dotted name."""

    name: str
    arrays: dict[str, dict[str, Any]]
    settings: dict[str, Any]


def diff(args: argparse.Namespace) -> int:
    """`palmscale checkpoint diff`: prints the differences, and returns 1 if there are any.

    Values are compared by the fingerprints that were taken when they were saved; no array is read.
    """
    a, b = _side(args.a, args.workdir), _side(args.b, args.workdir)
    tables.print_facts([("A", a.name), ("B", b.name)])
    arrays = array_differences(a.arrays, b.arrays)
    settings = differences(a.settings, b.settings)
    if arrays:
        print(f"\n{len(arrays)} of {len(a.arrays.keys() | b.arrays.keys())} arrays differ:\n")
        tables.print_table(("array", "differs in", "A", "B"), arrays)
    if settings:
        print(f"\n{len(settings)} settings differ:\n")
        rows = [[name, *map(_text, values)] for name, values in settings.items()]
        tables.print_table(("setting", "A", "B"), rows)
    for what, differ in (("arrays", arrays), ("settings", settings)):
        if not differ:
            print(f"\nAll {what} are equal.")
    return 1 if arrays or settings else 0


def array_differences(
    a: Mapping[str, Mapping[str, Any]], b: Mapping[str, Mapping[str, Any]]
) -> list[list[str]]:
    """Returns [path, what it differs in, there, here] of each array that is not the same in both.

    Where dtype or shape differ, the values are not compared.
    """
    rows = []
    for name in sorted(a.keys() | b.keys()):
        sides = [described.get(name) for described in (a, b)]
        for what in ("dtype", "shape", "fingerprint"):
            there, here = (None if side is None else side[what] for side in sides)
            if there != here:
                missing = None in sides
                label = "presence" if missing else "values" if what == "fingerprint" else what
                shown = [_array_text(side) for side in sides] if missing else [there, here]
                rows.append([name, label, *map(_text, shown)])
                break
    return rows


def settings_of(gin_text: str) -> dict[str, str]:
    """Returns the bindings of an operative configuration: name to value, as gin writes them."""
    settings: dict[str, str] = {}
    name = ""
    for line in gin_text.splitlines():
        if line[:1] in ("", "#") or line.startswith(("import ", "from ")):
            continue
        if line[0].isspace():  # a value that goes on
            settings[name] = f"{settings.get(name, '')} {line.strip()}".strip()
        else:
            name, _, value = line.partition(" = ")
            settings[name] = value.removesuffix("\\").strip()
    return settings


def _side(text: str, workdir: str | None) -> Side:
    path, which = _place(text, workdir)
    store = opened(path)
    step = chosen(store, which).step
    meta = store.read_meta(step) or {}
    manifest = digest.read_manifest(store.directory / str(step))
    arrays = {
        f"{item}/{name}": array
        for item, described in manifest["arrays"].items()
        for name, array in described.items()
    }
    settings = {name: value for name, value in meta.items() if name not in _NOT_COMPARED}
    settings["data"] = meta.get("identity", {}).get("data")
    settings |= settings_of(meta.get("operative_config", ""))
    return Side(name=f"{path}, step {step:,}", arrays=arrays, settings=settings)


def _place(text: str, workdir: str | None) -> tuple[str, str | int]:
    """Returns the workdir and the checkpoint in it that an argument names."""
    path, at, which = text.rpartition("@")
    if workdir is not None:
        path, which = workdir, text
    elif not at:
        path, which = text, "latest"
        if text.isdecimal():
            raise UserError(
                f"{text}: a step of which run? - write WORKDIR@{text}, or add --workdir=WORKDIR"
            )
    try:
        return path, checkpoint(which)
    except argparse.ArgumentTypeError as error:
        raise UserError(str(error)) from None


def _array_text(array: Mapping[str, Any] | None) -> str | None:
    return None if array is None else f"{array['dtype']}{array['shape']}"


def _text(value: Any) -> str:
    return "absent" if value is None else str(value)
