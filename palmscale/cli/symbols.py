"""What the names in a gin file stand for: `palm.PaLM` after `from palmscale.model import palm`."""

import importlib
import pkgutil
from typing import Any

from palmscale.cli.nearest import did_you_mean
from palmscale.errors import UserError


def import_symbol(module: str, whole: bool, place: str) -> Any:
    """Returns the module, or, unless `whole`, its first package: what `import a.b` binds in Python.

    Raises UserError, which begins with `place`, where it cannot be imported.
    """
    try:
        imported = importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{place}: cannot import {module} - {error}{_import_hint(module, error)}"
        ) from error
    return imported if whole else importlib.import_module(module.partition(".")[0])


def _import_hint(module: str, error: ImportError) -> str:
    parent, _, last = module.rpartition(".")
    if not parent or error.name != module:  # Something that the module itself imports is missing.
        return ""
    package = importlib.import_module(parent)
    if not hasattr(package, "__path__"):
        above, _, name = parent.rpartition(".")
        line = f"from {above} import {name}" if above else f"import {name}"
        return f"; gin imports modules only - write {line} and {name}.{last}"
    return did_you_mean(last, [found.name for found in pkgutil.iter_modules(package.__path__)])


def resolve(selector: str, names: dict[str, Any], place: str) -> Any:
    """Returns the function or class that `selector` names, starting from an imported name.

    Raises UserError, which begins with `place` and ends with the nearest known name.
    """
    first, *rest = selector.split(".")
    if first not in names:
        known = [
            f"{name}.{attribute}"
            for name, module in names.items()
            for attribute in _callables(module)
        ]
        remedy = did_you_mean(selector, known) or "; import its module at the head of the file"
        raise UserError(f"{place}: unknown name {selector}{remedy}")
    target = names[first]
    for depth, name in enumerate(rest):
        if not hasattr(target, name):
            above = ".".join((first, *rest[:depth]))
            known = [f"{above}.{attribute}" for attribute in _callables(target)]
            raise UserError(f"{place}: unknown name {selector}{did_you_mean(selector, known)}")
        target = getattr(target, name)
    if not callable(target):
        raise UserError(
            f"{place}: {selector} is a {type(target).__name__} - a function or class is needed"
        )
    return target


def _callables(module: Any) -> list[str]:
    return [
        name for name, value in vars(module).items() if callable(value) and not name.startswith("_")
    ]
