"""What a workdir's config.gin may name: it comes with a checkpoint, and a checkpoint is data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from palmscale.cli.config import moved, names
from palmscale.errors import UserError
from palmscale.run import named_classes, stable_names


@dataclass(frozen=True)
class ChosenModules:
    """palmscale's own classes, and the modules that the user chose."""

    modules: tuple[str, ...]

    def check_import(self, module: str, place: str) -> None:
        """Raises UserError where the import of a file would run code that nobody chose."""
        if module in moved.MODULES or module in stable_names.MODULES.values():
            return
        if not named_classes.is_among(module, self.modules):
            raise _unchosen(place, module)

    def check_name(self, selector: str, imports: Mapping[str, str], place: str) -> None:
        """Raises UserError for a name that may not be looked up."""
        name = names.canonical(selector, imports)
        if name not in stable_names.MODULES and not named_classes.is_among(name, self.modules):
            raise _unchosen(place, name.rpartition(".")[0] or name)

    def check_target(self, target: Any, place: str) -> None:
        """Raises UserError for what a chosen module has imported from another."""
        module = getattr(target, "__module__", "")
        if module.partition(".")[0] != "palmscale":
            self.check_import(module, place)


def _unchosen(place: str, module: str) -> UserError:
    return UserError(
        f"{place}: the configuration of a workdir imports no code itself; if you trust {module},"
        f" choose it: modules={module}."
    )
