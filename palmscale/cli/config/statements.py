"""Who refers to whom in a configuration, followed as gin follows it: macros, scopes, references."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from palmscale.cli.config.types import Reference
from palmscale.errors import UserError

REQUIRED = "gin.REQUIRED"
COMMAND_LINE = "--gin."  # A place that begins with it has no line numbers.


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
        name: TRAIN_STEPS, or as the user wrote it: PaLM.dim, palm.PaLM.dim.
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

    @property
    def is_of_command_line(self) -> bool:
        """Whether a flag says it, not a file."""
        return self.place.startswith(COMMAND_LINE)


class Statements:
    """What is written, and of it the last: of each macro, by name, and of each parameter.

    Parameters go by (scope with its slash, target, name). Every macro that a value mentions must
    have been added, REQUIRED apart.
    """

    def __init__(self) -> None:
        self.bindings: dict[tuple[str, Any, str], Binding] = {}
        self.macros: dict[str, Binding] = {}
        self.mentions: dict[str, str] = {}  # each macro that a value uses: the first such place
        self.scopes: set[str] = {""}  # that references name, replaced or not
        self._written: list[tuple[str, Binding]] = []  # with its scope; the replaced ones too

    def add(self, binding: Binding, scope: str = "") -> None:
        """Adds what is written next; it takes the place of what stood for the same before."""
        if binding.target is None:
            self.macros[binding.name] = binding
        else:
            self.bindings[scope, binding.target, binding.parameter] = binding
        self._written.append((scope, binding))
        for mentioned in _mentioned(binding.value):
            if isinstance(mentioned, Macro) and mentioned.name != REQUIRED:
                self.mentions.setdefault(mentioned.name, binding.place)
            elif isinstance(mentioned, Reference):
                self.scopes.update(outer_scopes(mentioned.name.rpartition("/")[0]))

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
        return {name for item in items(value) for name in self.macros_in(item)}

    def references(self, value: Any, scope: str) -> Iterator[tuple[Reference, str]]:
        """Yields the references in `value` and the scope in which gin calls each.

        That is the reference's own, else that of what holds it; a macro's name is a scope too.
        """
        if isinstance(value, Reference):
            yield value, value.name.rpartition("/")[0] or scope
        elif isinstance(value, Macro) and value.name != REQUIRED:
            yield from self.references(self.macros[value.name].value, value.name)
        for item in items(value):
            yield from self.references(item, scope)

    def bound_in(self, scope: str, target: Any) -> dict[str, Binding]:
        """Returns what is bound of `target` in `scope`: inner scopes win over outer ones."""
        bound = {}
        for outer in outer_scopes(scope):
            key = (f"{outer}/" if outer else "", target)
            bound |= {b.parameter: b for k, b in self.bindings.items() if k[:2] == key}
        return bound

    def reached(self) -> list[tuple[str, Any]]:
        """Returns (scope, target) of all that is made, from what no reference names on.

        What only a replaced line refers to is not made, nor what only the command line mentions.
        """
        named = [
            mentioned.target
            for _, binding in self._written
            for mentioned in _mentioned(binding.value)
            if isinstance(mentioned, Reference)
        ]
        # A dict, so that the first of several mistakes is always the same one.
        reached = {
            ("", b.target): None
            for b in self.bindings.values()
            if b.target not in named and not b.is_of_command_line
        }
        waiting = list(reached)
        while waiting:
            scope, target = waiting.pop()
            for binding in self.bound_in(scope, target).values():
                for reference, inner in self.references(binding.value, scope):
                    if (inner, reference.target) not in reached:
                        reached[inner, reference.target] = None
                        waiting.append((inner, reference.target))
        return list(reached)

    def effective(self) -> list[Binding]:
        """Returns the bindings of all that is made."""
        reached = self.reached()
        return [b for scope, target in reached for b in self.bound_in(scope, target).values()]

    def replacement(self, used: Any, above: tuple[Any, ...] = ()) -> Binding | None:
        """Returns the line that took the place of one by which `used` would have an effect.

        `used` is a target or a Macro; None: there never was such a line.
        """
        for scope, binding in self._written:
            mentioned = [
                one.target if isinstance(one, Reference) else one
                for one in _mentioned(binding.value)
            ]
            if used not in mentioned:
                continue
            key = (scope, binding.target, binding.parameter)
            last = self.bindings[key] if binding.target else self.macros[binding.name]
            user = binding.target or Macro(binding.name)
            if last is not binding:
                return last
            if user not in above and (found := self.replacement(user, (*above, used))):
                return found
        return None


def outer_scopes(scope: str) -> list[str]:
    """Returns the scopes that hold in "a/b", outermost first: "", "a", "a/b"."""
    parts = scope.split("/") if scope else []
    return ["/".join(parts[:depth]) for depth in range(len(parts) + 1)]


def map_items(function: Any, value: Any) -> Any:
    """Returns a list, tuple or dict with the function of each item; any other value as it is."""
    if isinstance(value, Mapping):
        return {function(k): function(v) for k, v in value.items()}
    return type(value)(map(function, value)) if type(value) in (list, tuple) else value


def items(value: Any) -> list[Any]:
    """Returns what a list, tuple or dict holds, its keys included; nothing of another value."""
    if isinstance(value, Mapping):
        return [*value, *value.values()]
    return list(value) if isinstance(value, (list, tuple)) else []


def _mentioned(value: Any) -> list[Reference | Macro]:
    """Returns the macros and references that stand in `value` itself."""
    if isinstance(value, (Reference, Macro)):
        return [value]
    return [found for item in items(value) for found in _mentioned(item)]
