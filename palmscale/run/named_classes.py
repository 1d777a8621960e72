"""Which classes a checkpoint may name: palmscale's own, and those of modules that the user chose.

A checkpoint is data, and anyone may have written it. Nothing that it names is imported, and nothing
is called but a class of these modules that could have been stored: a Linen module, or a dataclass.
"""

import dataclasses
import importlib
import sys
import sysconfig
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flax import linen as nn

from palmscale.errors import UserError
from palmscale.run import stable_names

_OWN = __name__.partition(".")[0]
_INSTALLED = ("site-packages", "dist-packages")


def import_modules(modules: Iterable[str]) -> None:
    """Imports the modules that the user chose.

    Raises:
        UserError: one cannot be imported.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever the user's own code raises
            raise UserError(
                f"modules={module} cannot be imported ({type(error).__name__}: {error}); correct"
                " the name, or start where the module can be found."
            ) from error


def find(name: Any, modules: Iterable[str] = (), base: type = object) -> type:
    """Returns the class of a stored name, of this or an earlier version.

    Args:
        name: `PaLM`, or `module:name` of a user's own.
        modules: imported modules whose classes may be named, those of their submodules included.
            So may classes of modules that the program has imported and that are part of no
            installed package: the user's own files.
        base: the class that it must be or extend.

    Raises:
        UserError: the name is that of another class, or of no class.
    """
    if not isinstance(name, str):
        raise UserError(f"the checkpoint has {name!r} in place of a class; use an intact copy.")
    own = stable_names.current(name)
    module, _, short = name.rpartition(":")
    found = stable_names.find(own) if own in stable_names.MODULES else _imported(module, short)
    could_be_stored = isinstance(found, type) and dataclasses.is_dataclass(found)
    if found is not None and not (could_be_stored and issubclass(found, base)):
        raise UserError(
            f"the checkpoint names {name}, which is not {_words(base)}; nothing of it was called."
        )
    is_chosen = own in stable_names.MODULES or is_among(module, modules) or _is_own_file(module)
    could_be_chosen = all(map(str.isidentifier, module.split(".")))
    if not is_chosen and (found is not None or could_be_chosen):
        raise UserError(
            f"the checkpoint names the class {module}:{short[:100]!r}, and a checkpoint imports no"
            f" code itself; if you trust {module}, choose it: modules={module}."
        )
    if found is None:
        raise UserError(
            f"the checkpoint names the class {name[:200]!r}, which is not defined here; use the"
            " version that it was saved with."
        )
    return found


def _imported(module: str, short: str) -> Any:
    """Returns what an imported module defines by a name, looked up without running any code."""
    found: Any = sys.modules.get(module)
    for part in short.split("."):
        # Not getattr, which may run code of the module or class.
        found = vars(found).get(part) if isinstance(found, (type, types.ModuleType)) else None
    is_elsewhere = isinstance(found, type) and vars(found).get("__module__") != module
    return None if is_elsewhere else found


def is_among(module: str, modules: Iterable[str]) -> bool:
    """Returns whether a module is one of `modules`, or inside one."""
    return any(module == one or module.startswith(f"{one}.") for one in modules)


def _is_own_file(module: str) -> bool:
    """Returns whether the program has imported this module from a file of the user's own.

    Python's modules and those of installed packages may be here because palmscale needs them.
    """
    if module == "__main__":
        return True
    loaded = sys.modules.get(module)
    path = vars(loaded).get("__file__") if isinstance(loaded, types.ModuleType) else None
    if not isinstance(path, str) or module.partition(".")[0] in {_OWN, *sys.stdlib_module_names}:
        return False
    folders = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return not set(Path(path).parts) & set(_INSTALLED) and not any(
        Path(path).is_relative_to(folder) for folder in folders
    )


def _words(base: type) -> str:
    if base is object:
        return "a class that a checkpoint can hold"
    return "a Linen module" if base is nn.Module else f"a {base.__name__}"
