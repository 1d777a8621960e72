"""Gin files and `--gin.NAME=VALUE`, read strictly and turned into a run."""

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gin

from palmscale.cli.config import checks, types, write
from palmscale.cli.config.chosen import ChosenModules
from palmscale.cli.config.reading import ROOT, Reading
from palmscale.cli.config.settings import Setting, settings_of
from palmscale.cli.config.statements import Macro, map_items
from palmscale.cli.config.types import Reference
from palmscale.errors import UserError

if TYPE_CHECKING:
    from palmscale.data.dataset import Data
    from palmscale.run.run import Run

__all__ = ["ROOT", "load", "load_data", "load_run", "operative_config", "reset", "setting_of"]

# Where a source's field is set, where `one_of` makes the source.
_OF_ONE_OF = {
    "TextFiles.files": "one_of.text_files",
    "SourceDirectories.directories": "one_of.source_directories",
    "Jsonl.files": "one_of.jsonl_files",
    "Pile.files": "one_of.pile_files",
    "Parquet.files": "one_of.parquet_files",
    "HuggingFace.dataset": "one_of.hf_dataset",
    "Tfds.dataset": "one_of.tfds_dataset",
    "SeqioTask.mixture_or_task": "one_of.mixture_or_task",
} | {
    f"{source}.{key}": f"one_of.{key}"
    for source in ("Jsonl", "Parquet", "HuggingFace", "Tfds")
    for key in ("text_key", "prompt_key", "separator")
}

_loaded: Reading | None = None  # as gin keeps the configuration itself


def load_run(
    gin_files: str | Sequence[str],
    bindings: Sequence[str] = (),
    modules: Sequence[str] | None = None,
) -> "Run":
    """Returns the run that gin files and bindings describe; starts nothing.

    Args:
        gin_files: read in order; looked for in the current directory, then beside palmscale's
            `configs/`. Modules that they import are also imported wherever text is read.
        bindings: `NAME=VALUE` as on the command line: `TRAIN_STEPS=200`, or `PaLM.dim=64`. A value
            that is not a Python literal is a string.
        modules: the only ones besides palmscale's own that the files may import and name, where
            they come with a checkpoint; None: the files are the user's, and may name any.

    Raises:
        UserError: an unknown name, an unused or unset macro, a wrong type, a missing file.
    """
    from palmscale.run.run import Run
    from palmscale.run.stored_run import check_reads_no_code

    load(_some(gin_files), bindings, modules=modules)
    run = bound_call(Run)
    if modules is not None:
        check_reads_no_code(run.data, modules)
    return dataclasses.replace(run, data=_with_imports(run.data))


def load_data(gin_files: str | Sequence[str], bindings: Sequence[str] = ()) -> "Data":
    """Returns the data alone, of gin files that need not describe a whole run.

    Raises:
        UserError: as `load_run`.
    """
    from palmscale.data.dataset import Data

    load(_some(gin_files), bindings)
    return _with_imports(bound_call(Data))


def operative_config() -> str:
    """Returns, as a gin file, every setting of what has been loaded, defaults included."""
    return write.stored_text(gin.operative_config_str())


def settings() -> list[Setting]:
    """Returns every setting of what has been loaded."""
    assert _loaded is not None, "loaded"
    return settings_of(_loaded.said)


def setting_of(field: str) -> str:
    """Returns the macro by which the loaded files set a field, else the field's own name.

    For example DATA for `MeshSpec.data`. Either can be set on the command line.
    """
    for name in (field, _OF_ONE_OF.get(field)):
        macros = _macros_of(name) if name else set()
        if len(macros) == 1:
            return macros.pop()
    return field


def _macros_of(field: str) -> set[str]:
    if _loaded is None:
        return set()
    found = {}
    for (scope, target, parameter), binding in _loaded.said.bindings.items():
        if f"{_loaded.symbols[target].name}.{parameter}" == field:
            found[scope] = binding.value
    # What holds everywhere is the setting; several scopes have one each.
    values = [found[""]] if "" in found else found.values()
    return {value.name for value in values if isinstance(value, Macro)}


def _with_imports(data: "Data") -> "Data":
    """Returns the data with the modules that the user's files import."""
    assert _loaded is not None, "loaded"
    modules = dict.fromkeys((*data.import_modules, *_loaded.modules))
    return dataclasses.replace(data, import_modules=tuple(modules))


def _some(gin_files: str | Sequence[str]) -> str | Sequence[str]:
    if not gin_files:
        raise UserError("no gin file; add --gin_file=configs/runs/quickstart.gin")
    return gin_files


def load(
    gin_files: str | Sequence[str],
    bindings: Sequence[str] = (),
    search_paths: Sequence[str | os.PathLike[str]] | None = None,
    modules: Sequence[str] | None = None,
) -> None:
    """Replaces the process's configuration by that of the files, in order, then of the bindings.

    Raises:
        UserError: as `load_run`; the configuration stays as it was.
    """
    global _loaded
    chosen = None if modules is None else ChosenModules(tuple(modules))
    reading = Reading(search_paths, chosen)
    for name in [gin_files] if isinstance(gin_files, str) else gin_files:
        reading.read_file(name)
    for binding in bindings:
        reading.read_binding(binding)
    reading.complete()
    checks.check(reading.said)
    reset()
    gin.parse_config(_for_gin(reading))
    _loaded = reading


def bound_call(function: Any) -> Any:
    """Returns what a function or class makes of the parameters that the configuration binds.

    Raises:
        UserError: a parameter without a default is not bound.
    """
    try:
        configured = gin.get_configurable(function)
    except ValueError:  # No file names it; registered, its defaults are written down too.
        configured = gin.external_configurable(function, module=function.__module__)
    given = set(gin.get_bindings(function, resolve_references=False))
    if missing := types.missing(function, given):
        name = function.__qualname__
        raise UserError(
            f"{name} lacks {', '.join(missing)}; bind {name}.{missing[0]} in a gin file."
        )
    try:
        return configured()
    except Exception as error:
        raise _as_raised(error) from None


def reset() -> None:
    """Forgets the configuration, as at the start of the process."""
    global _loaded
    gin.clear_config()
    _loaded = None


def _for_gin(reading: Reading) -> str:
    """Returns what the files say, the last of each, as one text with every name imported."""
    aliases = {
        symbol.module: symbol.module.replace(".", "_") for symbol in reading.symbols.values()
    }

    def name(target: Any) -> str:
        symbol = reading.symbols[target]
        return f"{aliases[symbol.module]}.{symbol.attribute}"

    def value(given: Any) -> Any:
        if isinstance(given, Reference):
            scope, slash, _ = given.name.rpartition("/")
            return Reference(f"{scope}{slash}{name(given.target)}", None, given.evaluated)
        return map_items(value, given)

    lines = ["from __gin__ import dynamic_registration"]
    lines += [f"import {module} as {alias}" for module, alias in aliases.items()]
    lines += [f"{key} = {value(b.value)!r}" for key, b in reading.said.macros.items()]
    lines += [
        f"{scope}{name(target)}.{parameter} = {value(b.value)!r}"
        for (scope, target, parameter), b in reading.said.bindings.items()
    ]
    return "\n".join([*lines, ""])


def _as_raised(error: BaseException) -> BaseException:
    """Returns the exception that gin wrapped in one with a longer, many-line message."""
    while (
        getattr(type(error).__init__, "__module__", "") == "gin.utils"
        and error.__context__ is not None
    ):
        error = error.__context__
    return error
