"""Gin files and `--gin.NAME=VALUE`, read strictly. The only `import gin` of the house.

The files are read twice. The first reading is ours: it resolves every name and remembers where it
stands, so that a mistake is one line with a file, a line number and the nearest known name. gin,
which would accept an unused macro or a wrong type in silence, reads second, when nothing is left to
go wrong.
"""

import os
import pathlib
import tokenize
from collections.abc import Iterator, Sequence
from typing import Any

import gin
from gin import config_parser

import palmscale
from palmscale.cli import bound_types, symbols
from palmscale.cli.bound_types import Reference
from palmscale.cli.nearest import did_you_mean
from palmscale.cli.references import (
    REQUIRED,
    Binding,
    Macro,
    Statements,
    map_items,
    outer_scopes,
)
from palmscale.errors import UserError

_PACKAGE = pathlib.Path(palmscale.__file__).parent
# In a checkout `configs/` stands beside the package, in an installed wheel inside it.
ROOT = _PACKAGE.parent if (_PACKAGE.parent / "pyproject.toml").is_file() else _PACKAGE

_imported: list[str] = []  # as gin keeps the configuration itself


def load(
    gin_files: Sequence[str],
    bindings: Sequence[str] = (),
    search_paths: Sequence[str | os.PathLike] | None = None,
) -> None:
    """Replaces the process's configuration by that of the files, in order, then of the bindings.

    A binding is `NAME=VALUE` as on the command line: `TRAIN_STEPS=200`, or `palm.PaLM.dim=64` with
    names as the gin files import them; a value that is no Python literal is a string. Files and
    includes are looked for in `search_paths`: by default the current directory, then the folder
    that holds palmscale's `configs/`.
    Raises UserError for an unknown name, an unused or unset macro, a wrong type, a missing file.
    """
    reading = _Reading(search_paths=[pathlib.Path(p) for p in search_paths or (".", ROOT)])
    for name in gin_files:
        reading.read_file(name, asked_by="--gin_file", open_files=())
    for binding in bindings:
        reading.read_binding(binding)
    reading.check()
    reset()
    _imported[:] = reading.modules
    for text in reading.texts:
        gin.parse_config(text)


def bound_call(function: Any, **keywords: Any) -> Any:
    """Returns `function(**keywords)` with the parameters that the configuration binds filled in.

    Keywords win over bindings. Raises UserError naming every parameter that neither gives.
    """
    try:
        configured = gin.get_configurable(function)
    except (
        ValueError
    ):  # No file mentions it; registered, its defaults appear in the operative config too.
        configured = gin.external_configurable(function, module=function.__module__)
    given = {*keywords, *gin.get_bindings(function, resolve_references=False)}
    if missing := bound_types.missing(function, given):
        name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"
        raise UserError(
            f"{name} lacks {', '.join(missing)} - bind {name}.{missing[0]} in a gin file"
        )
    try:
        return configured(**keywords)
    except Exception as error:
        raise _as_raised(error) from None


def operative_config() -> str:
    """Returns, as a gin file, every parameter of what has been called so far, defaults included."""
    return gin.operative_config_str()


def imported_modules() -> tuple[str, ...]:
    """Returns the modules that the files of the configuration import, those of palmscale apart."""
    return tuple(name for name in _imported if name.partition(".")[0] != palmscale.__name__)


def reset() -> None:
    """Forgets the configuration, as at the start of the process."""
    gin.clear_config()
    _imported.clear()


class _Delegate(config_parser.ParserDelegate):
    """Keeps references as written: they are resolved where the place is known."""

    def configurable_reference(self, scoped_configurable_name, evaluate):
        return Reference(scoped_configurable_name, None, evaluate)

    def macro(self, macro_name):
        return Macro(macro_name)


class _Reading:
    """Everything that the files and the command line say, with the places where they say it."""

    def __init__(self, search_paths: list[pathlib.Path]):
        self.search_paths = search_paths
        self.names: dict[str, Any] = {}  # imported by any file; the command line uses them all
        self.imports: dict[str, str] = {}
        self.modules: list[str] = []
        self.said = Statements()
        self.mentions: dict[str, str] = {}  # macro -> the first place that uses it
        self.scopes: set[str] = {""}  # that a reference names, overridden or not
        self.texts: list[str] = []  # for gin, in order

    def read_file(self, name: str, *, asked_by: str, open_files: tuple) -> None:
        path = self.find(name, asked_by)
        if path in open_files:
            raise UserError(f"{asked_by}: {name} includes itself - remove one of the includes")
        shown = _shown(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{asked_by}: cannot read {shown} - {error}") from error
        lines, names, imports, start = text.splitlines(), {}, {}, 0
        for statement in _statements(text, shown):
            number = statement.location.line_num
            place = f"{shown}:{number}"
            if isinstance(statement, config_parser.ImportStatement):
                lines[number - 1] = ""
                if not statement.module.startswith("__gin__."):
                    whole = statement.is_from or bool(statement.alias)
                    names[statement.bound_name()] = symbols.import_symbol(
                        statement.module, whole, place
                    )
                    imports[statement.bound_name()] = statement.format()
                    self.modules.append(statement.module)
            elif isinstance(statement, config_parser.IncludeStatement):
                self.texts.append(_for_gin(imports, lines[start : number - 1]))
                start = number
                self.read_file(statement.filename, asked_by=place, open_files=(*open_files, path))
            else:
                self.read_statement(statement, names, place)
        self.texts.append(_for_gin(imports, lines[start:]))
        self.names |= names
        self.imports |= imports

    def read_binding(self, binding: str) -> None:
        name, _, value = binding.partition("=")
        place = f"--gin.{binding}"
        try:
            statements = list(_statements(f"{name} = {value}", place))
        except UserError:
            if value.strip()[:1] in tuple("@%([{'\"") or not value.strip():
                raise
            statements = list(_statements(f"{name} = {value!r}", place))
            value = repr(value)
        for statement in statements:
            self.read_statement(statement, self.names, place)
        self.texts.append(_for_gin(self.imports, [f"{name} = {value}"]))

    def read_statement(self, statement: Any, names: dict, place: str) -> None:
        if isinstance(statement, config_parser.BlockDeclaration):
            symbols.resolve(statement.selector, names, place)
            return
        value = self.resolve_value(statement.value, names, place)
        scope = f"{statement.scope}/" if statement.scope else ""
        if not statement.arg_name:
            name = scope + statement.selector
            self.said.add(Binding(name, value, place))
            return
        target = symbols.resolve(statement.selector, names, place)
        known = bound_types.parameters(target)
        if statement.arg_name not in known and not bound_types.takes_any_name(target):
            hint = did_you_mean(statement.arg_name, known)
            raise UserError(
                f"{place}: {statement.selector} has no parameter {statement.arg_name}{hint}"
            )
        name = f"{scope}{statement.selector}.{statement.arg_name}"
        self.said.add(Binding(name, value, place, target, statement.arg_name), scope)

    def resolve_value(self, value: Any, names: dict, place: str) -> Any:
        """Returns the value with its references resolved; notes the macros and scopes it uses."""
        if isinstance(value, Reference):
            scope, _, selector = value.name.rpartition("/")
            self.scopes.update(outer_scopes(scope))
            target = symbols.resolve(selector, names, place)
            return Reference(value.name, target, value.evaluated)
        if isinstance(value, Macro) and value.name != REQUIRED:
            self.mentions.setdefault(value.name, place)
        return map_items(lambda item: self.resolve_value(item, names, place), value)

    def find(self, name: str, asked_by: str) -> pathlib.Path:
        for folder in self.search_paths:
            if (folder / name).is_file():
                return (folder / name).resolve()
        known = {
            str(f.relative_to(p)) for p in self.search_paths for f in p.glob("configs/**/*.gin")
        }
        looked = " and ".join(dict.fromkeys(str(p.resolve()) for p in self.search_paths))
        raise UserError(f"{asked_by}: no file {name} in {looked}{did_you_mean(name, known)}")

    def check(self) -> None:
        self.check_macros_are_known()
        final = (*self.said.macros.values(), *self.said.bindings.values())
        required = {b.name: b.place for b in final if b.value == Macro(REQUIRED)}
        if required:
            place = next(iter(required.values()))
            ways = " ".join(f"--gin.{name}=..." for name in required)
            raise UserError(f"{place}: {', '.join(required)} must be set - add {ways}")
        for binding in self.said.bindings.values():
            self.check_type(binding)
        self.check_every_scope_is_used()
        self.check_references_are_complete()
        self.check_the_command_line_has_effect()

    def check_macros_are_known(self) -> None:
        for name, place in self.mentions.items():
            if name not in self.said.macros:
                hint = did_you_mean(name, self.said.macros)
                raise UserError(f"{place}: unknown macro %{name}{hint}")
        for name, binding in self.said.macros.items():
            if name not in self.mentions:
                known = [other for other in self.mentions if other != name]
                raise UserError(f"{binding.place}: unknown macro {name}{did_you_mean(name, known)}")
        for binding in self.said.bindings.values():
            self.said.expand(binding.value)

    def check_the_command_line_has_effect(self) -> None:
        """What a file says may be replaced or left aside; what the command line says may not."""
        effective = [
            binding
            for scope, target in self.said.reached()
            for binding in self.said.bound_in(scope, target).values()
        ]
        live = {name for binding in effective for name in self.said.macros_in(binding.value)}
        for binding in (*self.said.macros.values(), *self.said.bindings.values()):
            of_command_line = binding.place.startswith("--gin.")
            if not of_command_line or binding.name in live or binding in effective:
                continue
            why = "nothing in this run uses it"
            remedy = f"leave {binding.name} out"
            if last := self.said.replacement(binding.target or Macro(binding.name)):
                why = f"{last.name} ({last.place}) takes the place of what uses it"
                remedy += f", or change {last.name}"
            raise UserError(f"{binding.place}: {binding.name} has no effect - {why} - {remedy}")

    def check_every_scope_is_used(self) -> None:
        for (prefix, *_), binding in self.said.bindings.items():
            scope = prefix.removesuffix("/")
            # What a macro has made carries the macro's name in an operative config.
            if scope not in self.scopes and scope.partition("/")[0] not in self.said.macros:
                raise UserError(
                    f"{binding.place}: nothing is made in the scope {scope}"
                    f"{did_you_mean(scope, self.scopes - {''})}"
                )

    def check_type(self, binding: Binding) -> None:
        wanted = bound_types.hint(binding.target, binding.parameter)
        value = self.said.expand(binding.value)
        if bound_types.fits(value, wanted):
            return
        blamed = binding  # Where the literal stands: the last of a chain of macros.
        while isinstance(blamed.value, Macro):
            blamed = self.said.macros[blamed.value.name]
        needs = f"{bound_types.describe(wanted)} is needed"
        if blamed is not binding:
            needs += f" by {binding.name}"
        better = bound_types.suggestion(value, wanted)
        remedy = (
            f"write {blamed.name} = {better!r}" if better is not None else f"change {blamed.name}"
        )
        raise UserError(
            f"{blamed.place}: {blamed.name} = {value!r} has the wrong type - {needs} - {remedy}"
        )

    def check_references_are_complete(self) -> None:
        for scope, target in self.said.reached():
            for binding in self.said.bound_in(scope, target).values():
                for reference, inner in self.said.references(binding.value, scope):
                    self.check_is_complete(reference, inner, binding.place)

    def check_is_complete(self, reference: Reference, scope: str, place: str) -> None:
        missing = bound_types.missing(
            reference.target, set(self.said.bound_in(scope, reference.target))
        )
        if reference.evaluated and missing:
            name = reference.name.rpartition("/")[2]
            shown = name if not scope or scope in self.said.macros else f"{scope}/{name}"
            raise UserError(
                f"{place}: {reference} lacks {', '.join(missing)} - bind {shown}.{missing[0]}"
            )


def _statements(text: str, shown: str) -> Iterator[Any]:
    try:
        yield from config_parser.ConfigParser(text, _Delegate())
    except SyntaxError as error:
        # gin gives a location tuple, Python's tokenizer sets the usual attributes.
        where = error.args[1] if len(error.args) > 1 else (None, error.lineno)
        place = shown if shown.startswith("--gin.") else f"{shown}:{where[1]}"
        said = str(error.args[0]).splitlines()[0].rstrip(".")
        line = str(where[3]).strip() if len(where) > 3 else ""
        raise UserError(f"{place}: cannot read {line!r} - {said}") from error
    except tokenize.TokenError as error:
        place = shown if shown.startswith("--gin.") else f"{shown}:{error.args[1][0]}"
        raise UserError(f"{place}: a bracket or a quotation mark is not closed") from error


def _for_gin(imports: dict[str, str], lines: list[str]) -> str:
    return "\n".join(["from __gin__ import dynamic_registration", *imports.values(), *lines, ""])


def _shown(path: pathlib.Path) -> str:
    here = pathlib.Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _as_raised(error: BaseException) -> BaseException:
    """Returns the exception that gin wrapped in one with a longer, many-line message."""
    while (
        getattr(type(error).__init__, "__module__", "") == "gin.utils"
        and error.__context__ is not None
    ):
        error = error.__context__
    return error
