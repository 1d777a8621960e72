"""What gin accepts in silence and palmscale refuses: checks of everything that files say."""

from palmscale.cli.config import types
from palmscale.cli.config.settings import settings_of
from palmscale.cli.config.statements import COMMAND_LINE, REQUIRED, Binding, Macro, Statements
from palmscale.cli.config.types import Reference
from palmscale.errors import UserError
from palmscale.run.meanings import closest
from palmscale.run.nearest import did_you_mean


def check(said: Statements) -> None:
    """Checks a whole configuration.

    Raises:
        UserError: the first mistake, with its place.
    """
    check_macros_are_known(said)
    check_required(said)
    for binding in said.bindings.values():
        check_type(said, binding)
    check_every_scope_is_used(said)
    check_references_are_complete(said)
    check_the_command_line_has_effect(said)


def check_macros_are_known(said: Statements) -> None:
    """Refuses a macro that nothing defines, or nothing uses, or that is defined by itself."""
    for name, place in said.mentions.items():
        if name not in said.macros:
            raise UserError(f"{place}: unknown macro %{name}{did_you_mean(name, said.macros)}")
    for name, binding in said.macros.items():
        if name not in said.mentions:
            found = closest(name, {one.name: one.fields for one in settings_of(said)})
            hint = f"did you mean {found}?" if found else "`palmscale explain --settings` lists all"
            raise UserError(f"{binding.place}: unknown macro {name}; {hint}")
    for binding in said.bindings.values():
        said.expand(binding.value)


def check_required(said: Statements) -> None:
    """Refuses what is still to be set, all of it at once."""
    final = (*said.macros.values(), *said.bindings.values())
    required = {b.name: b.place for b in final if b.value == Macro(REQUIRED)}
    if required:
        place = next(iter(required.values()))
        ways = " ".join(f"{COMMAND_LINE}{name}=..." for name in required)
        raise UserError(f"{place}: {', '.join(required)} must be set; add {ways}")


def check_type(said: Statements, binding: Binding) -> None:
    """Refuses a value that does not fit its parameter; blames the line where the literal stands."""
    wanted = types.hint(binding.target, binding.parameter)
    value = said.expand(binding.value)
    if types.fits(value, wanted):
        return
    blamed = binding  # Where the literal stands: the last of a chain of macros.
    while isinstance(blamed.value, Macro):
        blamed = said.macros[blamed.value.name]
    needs = types.describe(wanted)
    if blamed is not binding:
        needs = f"{binding.name} needs {needs}"
    else:
        needs = f"expected {needs}"
    better = types.suggestion(value, wanted)
    remedy = f"write {blamed.name} = {better!r}" if better is not None else f"change {blamed.name}"
    raise UserError(
        f"{blamed.place}: {blamed.name} = {value!r} has the wrong type; {needs}; {remedy}."
    )


def check_every_scope_is_used(said: Statements) -> None:
    """Refuses a binding in a scope that no reference names."""
    for (prefix, *_), binding in said.bindings.items():
        scope = prefix.removesuffix("/")
        # What a macro has made carries the macro's name in an operative config.
        if scope not in said.scopes and scope.partition("/")[0] not in said.macros:
            hint = did_you_mean(scope, said.scopes - {""})
            raise UserError(f"{binding.place}: nothing is made in the scope {scope}{hint}")


def check_references_are_complete(said: Statements) -> None:
    """Refuses a call that lacks a parameter."""
    for scope, target in said.reached():
        for binding in said.bound_in(scope, target).values():
            for reference, inner in said.references(binding.value, scope):
                _check_is_complete(said, reference, inner, binding.place)


def _check_is_complete(said: Statements, reference: Reference, scope: str, place: str) -> None:
    bound = said.bound_in(scope, reference.target)
    missing = types.missing(reference.target, set(bound))
    if not reference.evaluated and bound and missing:
        raise UserError(
            f"{place}: {reference} is called later, with {', '.join(missing)}; a checkpoint would"
            f" not record {', '.join(bound)}. Refer to a function that returns it, as @NAME()."
        )
    if reference.evaluated and missing:
        name = reference.name.rpartition("/")[2]
        shown = name if not scope or scope in said.macros else f"{scope}/{name}"
        raise UserError(
            f"{place}: {reference} lacks {', '.join(missing)}; bind {shown}.{missing[0]}."
        )


def check_the_command_line_has_effect(said: Statements) -> None:
    """Refuses an override without effect. What a file says may be replaced; a flag may not."""
    effective = said.effective()
    live = {name for binding in effective for name in said.macros_in(binding.value)}
    for binding in (*said.macros.values(), *said.bindings.values()):
        if not binding.is_of_command_line or binding.name in live or binding in effective:
            continue
        why = "nothing in this run uses it"
        remedy = f"leave {binding.name} out"
        if last := said.replacement(binding.target or Macro(binding.name)):
            why = f"{last.name} ({last.place}) replaces what uses it"
            remedy += f", or change {last.name}"
        raise UserError(f"{binding.place}: {binding.name} has no effect: {why}; {remedy}.")
