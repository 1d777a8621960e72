"""What the names in a gin file stand for: `PaLM`, or `my_module.X` after `import my_module`."""

import importlib.util
import pkgutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from palmscale.cli.config import moved
from palmscale.errors import UserError
from palmscale.observe.load_noise import without_load_noise
from palmscale.run import stable_names
from palmscale.run.nearest import did_you_mean


@dataclass(frozen=True)
class Symbol:
    """A class or function that a file names.

    Attributes:
        name: as palmscale writes it: `PaLM`, or `my_module.X` of a user's own.
        module: where it is found.
        attribute: its dotted name in there.
        target: the class or function.
    """

    name: str
    module: str
    attribute: str
    target: Any


def import_module(module: str, place: str) -> None:
    """Imports what a file imports.

    Raises:
        UserError: it cannot be imported; the message begins with `place`.
    """
    if module in moved.MODULES:
        return
    try:
        with without_load_noise():
            importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{place}: cannot import {module}: {error}{_import_hint(module, error)}"
        ) from error
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        raise UserError(
            f"{place}: cannot import {module}: {type(error).__name__}: {error}"
        ) from error


def _import_hint(module: str, error: ImportError) -> str:
    parent, _, last = module.rpartition(".")
    if not parent or error.name != module:  # Something that the module itself imports is missing.
        return ""
    package = importlib.import_module(parent)
    if not hasattr(package, "__path__"):
        above, _, name = parent.rpartition(".")
        line = f"from {above} import {name}" if above else f"import {name}"
        return f"; gin imports modules only: write {line} and {name}.{last}"
    return did_you_mean(last, [found.name for found in pkgutil.iter_modules(package.__path__)])


def path(selector: str, imports: Mapping[str, str]) -> str | None:
    """Returns the dotted path that a selector stands for, or None for an unknown first name.

    `imports` are the names that a file binds, and the modules. They come before palmscale's own.
    """
    first, dot, rest = selector.partition(".")
    if first in imports:
        return f"{imports[first]}{dot}{rest}"
    module = stable_names.MODULES.get(first)
    return None if module is None else f"{module}.{selector}"


def canonical(selector: str, imports: Mapping[str, str]) -> str:
    """Returns the name that palmscale writes today, without importing anything."""
    found = path(selector, imports) or selector
    module, _, name = found.rpartition(".")
    is_ours = stable_names.MODULES.get(name) == module
    return name if is_ours else moved.symbol(found) or found


def resolve(selector: str, imports: Mapping[str, str], place: str) -> Symbol:
    """Returns the class or function that `selector` names.

    Raises:
        UserError: there is none; the message begins with `place` and ends with the nearest name.
    """
    found = path(selector, imports)
    if found is None:
        known = [
            f"{name}.{attribute}"
            for name, module in imports.items()
            for attribute in _callables(module)
        ]
        module = selector.rpartition(".")[0]
        hint = did_you_mean(selector, [*known, *stable_names.MODULES])
        if module and _is_found(module):
            hint = f"; write `import {module}` at the top of the gin file that uses it"
        raise UserError(f"{place}: unknown name {selector}{hint}")
    if (short := moved.symbol(found)) is not None:
        if short not in stable_names.MODULES:
            raise UserError(f"{place}: {short} no longer exists; its fields are in Training.")
        return _ours(short)
    first, *rest = selector.split(".")
    if first in imports:
        target = _follow(_module(imports[first]), first, rest, place)
    else:
        target = _follow(stable_names.find(first), first, rest, place)
    if not callable(target):
        raise UserError(
            f"{place}: {selector} is a {type(target).__name__}; a function or class is needed."
        )
    name = getattr(target, "__qualname__", "")
    if stable_names.MODULES.get(name) == getattr(target, "__module__", None):
        return _ours(name)
    module = _module_in(found)
    return Symbol(found, module, found.removeprefix(f"{module}."), target)


def _is_found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # its parent is no package
        return False


def _ours(name: str) -> Symbol:
    return Symbol(name, stable_names.MODULES[name], name, stable_names.find(name))


def _follow(start: Any, above: str, attributes: list[str], place: str) -> Any:
    for name in attributes:
        if not hasattr(start, name):
            wrong = f"{above}.{name}"
            known = [f"{above}.{attribute}" for attribute in _callables(start)]
            raise UserError(f"{place}: unknown name {wrong}{did_you_mean(wrong, known)}")
        start, above = getattr(start, name), f"{above}.{name}"
    return start


def _module(name: str) -> Any:
    """Returns a module; of one that is gone its name, of which no attribute will be found."""
    if name in sys.modules:
        return sys.modules[name]
    return name if name in moved.MODULES else importlib.import_module(name)


def _module_in(dotted: str) -> str:
    """Returns the longest beginning of a dotted path that is a module."""
    while dotted not in sys.modules:
        dotted = dotted.rpartition(".")[0]
    return dotted


def _callables(module: Any) -> list[str]:
    """Returns the public functions and classes of a module, or those that one had that is gone."""
    if isinstance(module, str):
        if module in moved.MODULES:
            return list(moved.MODULES[module])
        module = sys.modules.get(module)
    known = getattr(module, "__dict__", {})  # A number has none, nor has what nothing imported.
    return [name for name, value in known.items() if callable(value) and not name.startswith("_")]
