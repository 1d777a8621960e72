"""The first of two readings of gin files: every name is resolved, with the place where it stands.

A mistake is one line with a file, a line number and the nearest known name. gin, which accepts an
unused macro or a wrong type in silence, reads what is left over.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import palmscale
from palmscale.cli.config import moved, names, types
from palmscale.cli.config.chosen import ChosenModules
from palmscale.cli.config.statements import COMMAND_LINE, Binding, Macro, Statements, map_items
from palmscale.cli.config.syntax import (
    BlockDeclaration,
    ImportStatement,
    IncludeStatement,
    parse,
)
from palmscale.cli.config.types import Reference
from palmscale.errors import UserError
from palmscale.observe import log
from palmscale.run.meanings import closest
from palmscale.run.nearest import did_you_mean
from palmscale.storage.place import local_path

_PACKAGE = pathlib.Path(palmscale.__file__).parent
# In a checkout `configs/` stands beside the package, in an installed wheel inside it.
ROOT = _PACKAGE.parent if (_PACKAGE.parent / "pyproject.toml").is_file() else _PACKAGE


class Reading:
    """Everything that the files and the command line say.

    Attributes:
        said: macros and bindings, by their names of today.
        modules: the user's own that the files import.
        symbols: by target, what the files name.
    """

    def __init__(
        self,
        search_paths: Sequence[str | os.PathLike[str]] | None = None,
        chosen: ChosenModules | None = None,
    ) -> None:
        self.said = Statements()
        self.modules: list[str] = []
        self.symbols: dict[Any, names.Symbol] = {}
        self._search_paths = [pathlib.Path(folder) for folder in search_paths or (".", ROOT)]
        self._chosen = chosen  # None: the files are the user's, and may name anything
        self._imports: dict[str, str] = {}  # of all files; the command line may use them
        self._renamed: dict[str, dict[str, str]] = {}  # by file: old names and those of today
        self._group_places: dict[str, str] = {}  # where a group got a field by an old name

    def read_file(
        self, name: str, *, asked_by: str = "--gin_file", open_files: tuple[pathlib.Path, ...] = ()
    ) -> None:
        """Reads a file and those that it includes."""
        path = self._find(name, asked_by)
        if path in open_files:
            raise UserError(f"{asked_by}: {name} includes itself; remove one of the includes.")
        shown = _shown(path)
        try:
            text = path.read_text(encoding="utf-8-sig")  # Windows' editors begin with a mark.
        except UnicodeDecodeError as error:
            raise UserError(
                f"{asked_by}: cannot read {shown}: {error}; save it as UTF-8."
            ) from error
        except OSError as error:
            raise UserError(f"{asked_by}: cannot read {shown}: {error.strerror}.") from error
        imports: dict[str, str] = {}
        for statement in parse(text, shown):
            place = f"{shown}:{statement.location.line_num}"
            if isinstance(statement, ImportStatement):
                self._read_import(statement, imports, place)
            elif isinstance(statement, IncludeStatement):
                if self._chosen is not None:
                    raise UserError(f"{place}: the configuration of a workdir includes no files.")
                open_here = (*open_files, path)
                self.read_file(statement.filename, asked_by=place, open_files=open_here)
            else:
                self._read_statement(statement, imports, place, shown)
        self._imports |= imports

    def read_binding(self, binding: str) -> None:
        """Reads `NAME=VALUE` as on the command line."""
        name, _, value = binding.partition("=")
        place = f"{COMMAND_LINE}{binding}"
        try:
            statements = list(parse(f"{name} = {value}", place))
        except UserError:
            if value.strip()[:1] in tuple("@%([{'\"") or not value.strip():
                raise
            statements = list(parse(f"{name} = {value!r}", place))
        imports = moved.COMMAND_LINE | self._imports
        for statement in statements:
            self._read_statement(statement, imports, place, "the command line")

    def complete(self) -> None:
        """Binds the groups of fields that only old names have filled, and tells of old names."""
        run = names.resolve("Run", {}, "") if self._group_places else None
        for group, place in self._group_places.items():
            parameter = moved.GROUPS[group]
            bound = {key[1:] for key in self.said.bindings}
            if (run.target, parameter) not in bound:
                value = Reference(group, self._symbol(group, {}, place).target, True)
                self.symbols[run.target] = run
                name = f"Run.{parameter}"
                self.said.add(Binding(name, value, place, run.target, parameter))
        for place, renamed in self._renamed.items():
            log.warn(f"{place}: {moved.note(renamed)}")

    def _read_import(self, statement: Any, imports: dict[str, str], place: str) -> None:
        module = statement.module
        if module.startswith("__gin__."):
            return
        if self._chosen is not None:
            self._chosen.check_import(module, place)
        names.import_module(module, place)
        whole = statement.is_from or bool(statement.alias)
        imports[statement.bound_name()] = module if whole else module.partition(".")[0]
        if module.partition(".")[0] != palmscale.__name__ and module not in self.modules:
            self.modules.append(module)

    def _read_statement(
        self, statement: Any, imports: Mapping[str, str], place: str, file: str
    ) -> None:
        scope = f"{statement.scope}/" if statement.scope else ""
        selector = statement.selector
        if isinstance(statement, BlockDeclaration):
            if names.canonical(selector, imports) != "Periods":
                self._symbol(selector, imports, place, file)
            return
        if not statement.arg_name:
            name = scope + self._macro(selector, file)
            self.said.add(Binding(name, self._value(statement.value, imports, place, file), place))
            return
        parameter = statement.arg_name
        full = f"{names.canonical(selector, imports)}.{parameter}"
        if moved.is_dropped(full, statement.value):
            return
        if full in moved.PARAMETERS:
            now = moved.PARAMETERS[full]
            self._note(file, f"{selector}.{parameter}", now)
            selector, _, parameter = now.partition(".")
            imports_of_selector: Mapping[str, str] = {}
            self._group_places.setdefault(selector, place)
        else:
            imports_of_selector = imports
        target = self._symbol(selector, imports_of_selector, place, file).target
        known = types.parameters(target)
        if parameter not in known and not types.takes_any_name(target):
            owner = names.canonical(selector, imports_of_selector)
            found = closest(parameter, {name: (f"{owner}.{name}",) for name in known})
            hint = f"; did you mean {found}?" if found else did_you_mean(parameter, known)
            raise UserError(f"{place}: {selector} has no parameter {parameter}{hint}")
        value = self._value(statement.value, imports, place, file)
        name = f"{scope}{selector}.{parameter}"
        self.said.add(Binding(name, value, place, target, parameter), scope)

    def _value(self, value: Any, imports: Mapping[str, str], place: str, file: str) -> Any:
        """Returns the value with its references resolved, and macros by their names of today."""
        if isinstance(value, Reference):
            target = self._symbol(value.name.rpartition("/")[2], imports, place, file).target
            return Reference(value.name, target, value.evaluated)
        if isinstance(value, Macro):
            return Macro(self._macro(value.name, file))
        return map_items(lambda item: self._value(item, imports, place, file), value)

    def _symbol(
        self, selector: str, imports: Mapping[str, str], place: str, file: str = ""
    ) -> names.Symbol:
        if self._chosen is not None:
            self._chosen.check_name(selector, imports, place)
        found = names.resolve(selector, imports, place)
        if self._chosen is not None:
            self._chosen.check_target(found.target, place)
        first = selector.partition(".")[0]
        was_imported = place.startswith(COMMAND_LINE) and first not in self._imports
        if moved.symbol(names.path(selector, imports) or "") or (
            was_imported and first in moved.COMMAND_LINE
        ):
            self._note(file, selector, found.name)
        return self.symbols.setdefault(found.target, found)

    def _macro(self, name: str, file: str) -> str:
        now = moved.MACROS.get(name, name)
        if now != name:
            self._note(file, name, now)
        return now

    def _note(self, file: str, old: str, new: str) -> None:
        self._renamed.setdefault(file, {})[old] = new

    def _find(self, name: str, asked_by: str) -> pathlib.Path:
        given = local_path(name)
        for folder in self._search_paths:
            if os.path.isfile(folder / given):
                return (folder / given).resolve()
        known = {
            str(f.relative_to(p)) for p in self._search_paths for f in p.glob("configs/**/*.gin")
        }
        looked = " and ".join(dict.fromkeys(str(p.resolve()) for p in self._search_paths))
        raise UserError(f"{asked_by}: no file {name} in {looked}{did_you_mean(name, known)}")


def _shown(path: pathlib.Path) -> str:
    here = pathlib.Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
