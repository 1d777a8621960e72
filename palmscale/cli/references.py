"""Who refers to whom in a configuration, followed as gin follows it: macros, scopes, references."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from palmscale.cli.bound_types import Reference
from palmscale.errors import UserError

REQUIRED = "gin.REQUIRED"


@dataclass(frozen=True)
class Macro:
    """`%NAME`: stands for the value that NAME is given, wherever that is written."""

    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"


@dataclass(frozen=True)
class Binding:
    """`NAME = value`, or a macro where it has no target.

    Attributes:
        name: as the user wrote it: TRAIN_STEPS, palm.PaLM.dim.
        value: as gin parsed it, its references resolved.
        place: configs/runs/x.gin:12, or the command line's --gin.TRAIN_STEPS=5.
        target: the function or class.
        parameter: of it.
    """

    name: str
    value: Any
    place: str
    target: Any = None
    parameter: str = ""


@dataclass
class Statements:
    """The last value of each parameter, by (scope with its slash, target, name), and of each macro.

    Every macro that a value mentions must be there, REQUIRED apart.
    """

    bindings: dict[tuple[str, Any, str], Binding] = field(default_factory=dict)
    macros: dict[str, Binding] = field(default_factory=dict)

    def expand(self, value: Any, above: tuple[str, ...] = ()) -> Any:
        """Returns the value with macros replaced by their values.

        Raises UserError for a macro that is defined by itself.
        """
        if isinstance(value, Macro) and value.name != REQUIRED:
            if value.name in above:
                raise UserError(
                    f"{self.macros[value.name].place}: {value.name} is defined by itself"
                )
            return self.expand(self.macros[value.name].value, (*above, value.name))
        return map_items(lambda item: self.expand(item, above), value)

    def macros_in(self, value: Any) -> set[str]:
        """Returns the macros that the value uses, and those that these use."""
        if isinstance(value, Macro) and value.name != REQUIRED:
            return {value.name} | self.macros_in(self.macros[value.name].value)
        return {name for item in _items(value) for name in self.macros_in(item)}

    def references(self, value: Any, scope: str) -> Iterator[tuple[Reference, str]]:
        """Yields the references in `value` and the scope in which gin calls each.

        That is the reference's own, else that of what holds it; a macro's name is a scope too.
        """
        if isinstance(value, Reference):
            yield value, value.name.rpartition("/")[0] or scope
        elif isinstance(value, Macro) and value.name != REQUIRED:
            yield from self.references(self.macros[value.name].value, value.name)
        for item in _items(value):
            yield from self.references(item, scope)

    def bound_in(self, scope: str, target: Any) -> dict[str, Binding]:
        """Returns what is bound of `target` in `scope`: inner scopes win over outer ones."""
        bound = {}
        for outer in outer_scopes(scope):
            key = (f"{outer}/" if outer else "", target)
            bound |= {b.parameter: b for k, b in self.bindings.items() if k[:2] == key}
        return bound

    def reached(self) -> list[tuple[str, Any]]:
        """Returns (scope, target) of all that is made, from what no reference names on."""
        named = {
            reference.target
            for binding in self.bindings.values()
            for reference, _ in self.references(binding.value, "")
        }
        # A dict, so that the first of several mistakes is always the same one.
        reached = {("", b.target): None for b in self.bindings.values() if b.target not in named}
        waiting = list(reached)
        while waiting:
            scope, target = waiting.pop()
            for binding in self.bound_in(scope, target).values():
                for reference, inner in self.references(binding.value, scope):
                    if (inner, reference.target) not in reached:
                        reached[inner, reference.target] = None
                        waiting.append((inner, reference.target))
        return list(reached)


def outer_scopes(scope: str) -> list[str]:
    """Returns the scopes that hold in "a/b", outermost first: "", "a", "a/b"."""
    parts = scope.split("/") if scope else []
    return ["/".join(parts[:depth]) for depth in range(len(parts) + 1)]


def map_items(function: Any, value: Any) -> Any:
    """Returns a list, tuple or dict with the function of each item; any other value as it is."""
    if isinstance(value, Mapping):
        return {function(k): function(v) for k, v in value.items()}
    return type(value)(map(function, value)) if type(value) in (list, tuple) else value


def _items(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return [*value, *value.values()]
    return list(value) if isinstance(value, (list, tuple)) else []
