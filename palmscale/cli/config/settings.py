"""Every setting of a run: its value, where that is set, and what it means."""

from collections.abc import Iterator
from typing import NamedTuple

from palmscale.cli.config import types
from palmscale.cli.config.statements import Macro, Statements
from palmscale.run.meanings import meaning
from palmscale.run.stable_names import gin_name

DEFAULT = "default"


class Setting(NamedTuple):
    """What a file or a flag may set.

    Attributes:
        name: TRAIN_STEPS, or PaLM.dim.
        fields: that it sets: Training.steps.
        value: as a gin file has it.
        place: configs/runs/x.gin:12, --gin.TRAIN_STEPS=5, or `default`.
        meaning: one line.
    """

    name: str
    fields: tuple[str, ...]
    value: str
    place: str
    meaning: str

    def row(self) -> tuple[str, str, str, str]:
        """Returns the cells of a table; a macro's meaning begins with the fields that it sets."""
        others = [field for field in self.fields if field != self.name]
        told = ": ".join(filter(None, (", ".join(others), self.meaning)))
        return self.name, self.value, self.place, told


def settings_of(said: Statements) -> list[Setting]:
    """Returns the settings of all that is made, by class; those of each in its own order."""
    found: dict[str, Setting] = {}
    for one in _fields(said):
        if above := found.get(one.name):
            fields = tuple(dict.fromkeys((*above.fields, *one.fields)))
            one = above._replace(fields=fields, meaning=above.meaning or one.meaning)
        found[one.name] = one
    used = {name for binding in said.effective() for name in said.macros_in(binding.value)}
    for name in sorted(used - found.keys()):  # in a list, or in another macro
        macro = said.macros[name]
        found[name] = Setting(name, (), repr(macro.value), macro.place, "")
    return list(found.values())


def _fields(said: Statements) -> Iterator[Setting]:
    """Yields the setting of each field."""
    for scope, target in said.reached():
        bound = said.bound_in(scope, target)
        # The name of the macro that makes an object is a scope that nobody writes.
        prefix = f"{scope}/" if scope and scope.partition("/")[0] not in said.macros else ""
        for parameter, signature in types.parameters(target).items():
            if parameter in ("parent", "name") and hasattr(target, "apply"):
                continue  # Linen's own
            field = f"{prefix}{gin_name(target)}.{parameter}"
            means = meaning(target, parameter)
            binding = bound.get(parameter)
            if binding is None:
                yield Setting(field, (field,), repr(signature.default), DEFAULT, means)
            elif isinstance(binding.value, Macro):
                macro = said.macros[binding.value.name]
                yield Setting(macro.name, (field,), repr(macro.value), macro.place, means)
            else:
                yield Setting(field, (field,), repr(binding.value), binding.place, means)
