"""The configuration as text: what a run's `config.gin` holds, in names that outlive a move."""

from collections.abc import Iterator
from typing import Any

import palmscale
from palmscale.cli.config import moved, names, syntax
from palmscale.cli.config.statements import Macro, map_items
from palmscale.cli.config.syntax import BlockDeclaration, ImportStatement, IncludeStatement
from palmscale.cli.config.types import Reference

_PLACE = "config.gin"


def stored_text(gin_text: str) -> str:
    """Returns a configuration, which includes no file, by the names that stored files use.

    palmscale's own classes need no import; a user's own are named by their module.
    """
    modules: list[str] = []
    settings = list(_settings(gin_text, modules))
    users = {m for m in modules if m.partition(".")[0] != palmscale.__name__}
    lines = [f"import {module}" for module in sorted(users)]
    macros = sorted((name, value) for owner, name, value in settings if not owner)
    lines += ["", "# Macros", *(syntax.binding(name, value) for name, value in macros)]
    above = ""
    for owner, name, value in sorted(settings, key=lambda s: (_by_class(s[0]), s[1])):
        if owner and owner != above:
            lines += ["", f"# {owner}"]
        if owner:
            lines.append(syntax.binding(f"{owner}.{name}", value))
        above = owner
    return "\n".join(lines).lstrip("\n") + "\n"


def settings_of(gin_text: str) -> dict[str, str]:
    """Returns the settings of a stored configuration, of this or an earlier version, as text.

    Names are those of today: `TRAIN_STEPS`, `Training.steps`. Nothing is imported.
    """
    return {
        f"{owner}.{name}" if owner else name: repr(value)
        for owner, name, value in _settings(gin_text, [])
    }


def _settings(gin_text: str, modules: list[str]) -> Iterator[tuple[str, str, Any]]:
    """Yields (class with its scope, field, value), or ("", macro, value); adds to `modules`."""
    imports: dict[str, str] = {}
    for statement in syntax.parse(gin_text, _PLACE):
        if isinstance(statement, ImportStatement):
            if not statement.module.startswith("__gin__."):
                whole = statement.is_from or bool(statement.alias)
                module = statement.module
                modules.append(module)
                imports[statement.bound_name()] = module if whole else module.partition(".")[0]
            continue
        if isinstance(statement, (IncludeStatement, BlockDeclaration)):
            continue
        scope = f"{statement.scope}/" if statement.scope else ""
        if not statement.arg_name:
            name = moved.MACROS.get(statement.selector, statement.selector)
            yield "", scope + name, _value(statement.value, imports)
            continue
        full = f"{names.canonical(statement.selector, imports)}.{statement.arg_name}"
        if not moved.is_dropped(full, statement.value):
            owner, _, name = moved.PARAMETERS.get(full, full).rpartition(".")
            yield scope + owner, name, _value(statement.value, imports)


def _value(value: Any, imports: dict[str, str]) -> Any:
    if isinstance(value, Reference):
        scope, slash, selector = value.name.rpartition("/")
        return Reference(
            f"{scope}{slash}{names.canonical(selector, imports)}", None, value.evaluated
        )
    if isinstance(value, Macro):
        return Macro(moved.MACROS.get(value.name, value.name))
    return map_items(lambda item: _value(item, imports), value)


def _by_class(owner: str) -> tuple[str, str]:
    scope, _, name = owner.rpartition("/")
    return name.casefold(), scope
