"""`palmscale checkpoint diff`: in which arrays and settings two checkpoints differ."""

import argparse
import dataclasses
from typing import Any, TypedDict

from palmscale.cli.argument_values import checkpoint, workdir
from palmscale.cli.parser import add_command
from palmscale.errors import UserError

# Of the meta: what happened, and what the gin configuration says better.
_NOT_COMPARED = ("operative_config", "run", "rules", "identity", "spike_history", "course")


class _Compared(TypedDict, total=False):
    identity: dict[str, Any]
    operative_config: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Side:
    """One of the two: its name for a person, its arrays by path, its settings by dotted name."""

    name: str
    arrays: dict[str, dict[str, Any]]
    settings: dict[str, Any]


def add(commands: Any) -> None:
    """Adds `diff` and its flags to the checkpoint commands."""
    summary = "List the arrays and settings in which two checkpoints differ; exit code 1 if any."
    command = add_command(commands, "diff", diff, summary)
    for name in ("a", "b"):
        command.add_argument(
            name,
            metavar=name.upper(),
            help="WORKDIR for its latest, WORKDIR@WHICH, or with --workdir a step, latest or best",
        )
    command.add_argument("--workdir", type=workdir, help="the folder of the run that has both")


def diff(args: argparse.Namespace) -> int:
    """Prints the differences, and returns 1 if there are any.

    Values are compared by the fingerprints that were taken when they were saved; no array is read.
    """
    from palmscale.checkpoint.compare import array_differences
    from palmscale.observe import tables
    from palmscale.run.identity import changes

    a, b = _side(args.a, args.workdir), _side(args.b, args.workdir)
    tables.print_facts([("A", a.name), ("B", b.name)])
    arrays = array_differences(a.arrays, b.arrays)
    settings = changes(a.settings, b.settings)
    if arrays:
        print(f"\n{len(arrays)} of {len(a.arrays.keys() | b.arrays.keys())} arrays differ:\n")
        rows = [[array.name, array.what, *map(_text, array.values)] for array in arrays]
        tables.print_table(("array", "differs in", "A", "B"), rows)
    if settings:
        print(f"\n{len(settings)} settings differ:\n")
        rows = [[name, *map(_text, values)] for name, values in settings.items()]
        tables.print_table(("setting", "A", "B"), rows)
    for what, differ in (("arrays", arrays), ("settings", settings)):
        if not differ:
            print(f"\nAll {what} are equal.")
    return 1 if arrays or settings else 0


def _side(text: str, run_folder: str | None) -> _Side:
    from palmscale.checkpoint.compare import stored_arrays
    from palmscale.cli.config.write import settings_of
    from palmscale.run import workdir
    from palmscale.storage.typed_json import checked

    path, which = _place(text, run_folder)
    reader = workdir.checkpoints(path)
    step = workdir.choose(reader, which).step
    meta = checked(reader.read_meta(step), _Compared, f"the meta of step {step} in {path}")
    settings = {name: value for name, value in meta.items() if name not in _NOT_COMPARED}
    settings["data"] = meta.get("identity", {}).get("data")
    settings |= settings_of(meta.get("operative_config", ""))
    return _Side(
        name=f"{path}, step {step:,}", arrays=stored_arrays(reader, step), settings=settings
    )


def _place(text: str, run_folder: str | None) -> tuple[str, str | int]:
    """Returns the workdir and the checkpoint in it that an argument names."""
    path, at, which = text.rpartition("@")
    if run_folder is not None:
        path, which = run_folder, text
    elif not at:
        path, which = text, "latest"
        if text.isdecimal():
            raise UserError(
                f"{text} is a step of an unknown run; write WORKDIR@{text}, or add"
                " --workdir=WORKDIR."
            )
    try:
        return path, checkpoint(which)
    except argparse.ArgumentTypeError as error:
        raise UserError(str(error)) from None


def _text(value: Any) -> str:
    return "absent" if value is None else str(value)
