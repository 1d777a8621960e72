"""The values that checkpoints describe, built again: the other direction of `identity.describe`."""

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from flax import linen as nn

from palmscale.errors import UserError
from palmscale.run import functions, named_classes
from palmscale.run.identity import describe
from palmscale.storage.typed_json import misfit


def rebuild(described: Any, modules: Iterable[str] = (), base: type = object, **given: Any) -> Any:
    """Returns the value that `describe` wrote down, in this or an earlier version.

    Args:
        described: a JSON value.
        modules: imported modules whose classes it may name; see `named_classes.find`.
        base: the class that the value must be an instance of.
        given: fields of the value, in place of those described, which are not built.

    Raises:
        UserError: it names a class that it may not, or a field does not have its type.
    """
    modules = tuple(modules)
    if isinstance(described, Mapping) and functions.FUNCTION in described:
        made_by = str(described[functions.FUNCTION])[:100]
        raise UserError(
            f"the stored run has a value that {made_by!r} made, and checkpoints hold no functions;"
            " name the run's gin file."
        )
    if isinstance(described, Mapping) and "class" in described:
        kind = named_classes.find(described["class"], modules, base)
        apart = {"class", *given}
        stored = {name: value for name, value in described.items() if name not in apart}
        return _instance(kind, stored, modules, given)
    if base is not object:
        raise UserError("the checkpoint names no class where it must; use an intact copy.")
    if isinstance(described, Mapping):
        return {key: rebuild(value, modules) for key, value in described.items()}
    if isinstance(described, (list, tuple)):
        return tuple(rebuild(item, modules) for item in described)
    return described


def _instance(
    kind: type, stored: Mapping[str, Any], modules: tuple[str, ...], given: Mapping[str, Any]
) -> Any:
    fields, hints = fields_of(kind), hints_of(kind)
    values = dict(given)
    for name, described in stored.items():
        if name not in fields:
            raise UserError(
                f"the checkpoint gives {kind.__name__} a field {name[:100]!r}, which it does not"
                " have; use the version that it was saved with."
            )
        default = fields[name].default
        is_default = default is not dataclasses.MISSING and described == describe(default)
        # What JSON cannot hold, such as a dtype, is described by its name alone.
        values[name] = default if is_default else rebuild(described, modules)
        if not is_default and (flaw := misfit(values[name], hints.get(name, Any))):
            raise UserError(
                f"the checkpoint gives {kind.__name__}.{name} another type: {flaw}; use an intact"
                " copy, or the version that it was saved with."
            )
    try:
        return kind(**values)
    except UserError:
        raise
    except Exception as error:  # whatever the class raises
        raise UserError(
            f"the checkpoint describes a {kind.__name__} that cannot be built"
            f" ({type(error).__name__}: {error}); use the version that it was saved with."
        ) from error


def fields_of(kind: type) -> dict[str, dataclasses.Field]:
    """Returns the fields of a dataclass that can be given, by name."""
    # Linen adds parent and name to every module; they are not stored.
    added = ("parent", "name") if issubclass(kind, nn.Module) else ()
    return {f.name: f for f in dataclasses.fields(kind) if f.init and f.name not in added}


def hints_of(kind: type) -> dict[str, Any]:
    """Returns the types of a dataclass's fields, by name; empty if they cannot be resolved."""
    try:
        return typing.get_type_hints(kind, include_extras=True)
    except Exception:  # names imported for the type checker only
        return {}
