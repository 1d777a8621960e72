"""Whether a value in a gin file fits the parameter that it is bound to. gin accepts anything."""

import ast
import collections.abc
import inspect
import sys
import types
import typing
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reference:
    """`@name` (a function or class itself) or, evaluated, `@name()` (what calling it returns)."""

    name: str
    target: Any
    evaluated: bool

    def __repr__(self) -> str:
        return f"@{self.name}{'()' if self.evaluated else ''}"


def parameters(target: Any) -> dict[str, inspect.Parameter]:
    """Returns the parameters that gin can bind by name, in order."""
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        name: p for name, p in inspect.signature(target).parameters.items() if p.kind in by_name
    }


def takes_any_name(target: Any) -> bool:
    """Returns whether `target` has a `**keywords` parameter."""
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(target).parameters.values())


def missing(target: Any, given: set[str]) -> list[str]:
    """Returns the parameters that have no default and are not among the given names."""
    known = parameters(target).items()
    return [name for name, p in known if p.default is inspect.Parameter.empty and name not in given]


def hint(target: Any, parameter: str) -> Any:
    """Returns the parameter's type, or Any where it has none that can be read at run time."""
    if not inspect.isclass(target):
        owners = [target]
    else:  # A field may come from a base class in another module: its type is to be read there.
        owners = [c for c in target.__mro__ if parameter in vars(c).get("__annotations__", {})]
        owners = owners or [target.__init__]
    annotation = getattr(owners[0], "__annotations__", {}).get(parameter, Any)
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(
            annotation, vars(sys.modules[owners[0].__module__])
        )  # As typing.get_type_hints does.
    except Exception:  # Names imported for the type checker only.
        return Any


def fits(value: Any, wanted: Any) -> bool:
    """Returns whether `value`, as gin parsed it, may be given to a parameter of type `wanted`.

    An int is a float, a bool is neither. Where the type says more than can be checked here,
    the answer is yes.
    """
    origin, args = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, option) for option in args)
    if origin is typing.Annotated or isinstance(wanted, typing.NewType):
        return fits(value, args[0] if args else wanted.__supertype__)
    if wanted in (Any, object, inspect.Parameter.empty) or isinstance(wanted, typing.TypeVar):
        return True
    if wanted is None or wanted is type(None):
        return value is None
    if origin is typing.Literal:
        return any(type(value) is type(option) and value == option for option in args)
    if isinstance(value, Reference):
        return _reference_fits(value, origin or wanted)
    if wanted is int or wanted is float:
        return type(value) is int or (type(value) is float and wanted is float)
    kind = origin or wanted
    if not inspect.isclass(kind) or kind is collections.abc.Callable:
        return kind is not collections.abc.Callable
    return _is_a(type(value), kind) and _items_fit(value, kind, args)


def _reference_fits(value: Reference, kind: Any) -> bool:
    if not inspect.isclass(kind):
        return True
    if not value.evaluated:  # The function or class itself.
        return _is_a(type(value.target), kind)
    made = value.target if inspect.isclass(value.target) else hint(value.target, "return")
    is_union = typing.get_origin(made) in (typing.Union, types.UnionType)
    options = [typing.get_origin(o) or o for o in (typing.get_args(made) if is_union else (made,))]
    return any(o is Any or not inspect.isclass(o) or _is_a(o, kind) for o in options)


def _is_a(made: type, kind: type) -> bool:
    """Returns whether a class is a `kind`, or has all methods of that protocol."""
    if not getattr(kind, "_is_protocol", False):
        return issubclass(made, kind)
    protocols = [c for c in kind.__mro__ if c not in (typing.Protocol, typing.Generic, object)]
    methods = {name for c in protocols for name, value in vars(c).items() if callable(value)}
    # Not by hasattr: every class has the `__call__` that makes its instances.
    return all(any(name in vars(c) for c in made.__mro__) for name in methods)


def _items_fit(value: Any, kind: Any, args: tuple) -> bool:
    if issubclass(kind, str) or not args:
        return True
    if isinstance(
        value, str
    ):  # A string is a sequence of strings, but nobody who writes one means that.
        return False
    if isinstance(value, dict):
        return all(fits(k, args[0]) and fits(v, args[-1]) for k, v in value.items())
    if kind is tuple and args[-1] is not Ellipsis:
        return len(value) == len([a for a in args if a != ()]) and all(map(fits, value, args))
    return all(fits(item, args[0]) for item in value)


def describe(wanted: Any) -> str:
    """Returns the type as a user would say it: `int or None`."""
    if typing.get_origin(wanted) in (typing.Union, types.UnionType):
        return " or ".join(describe(option) for option in typing.get_args(wanted))
    if typing.get_origin(wanted) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(wanted)))
    if wanted is type(None):
        return "None"
    if inspect.isclass(wanted) and not typing.get_args(wanted):
        return wanted.__name__
    return str(wanted).replace("typing.", "").replace("collections.abc.", "")


def suggestion(value: Any, wanted: Any) -> Any:
    """Returns what the user may have meant: a value like `value` that fits, or None."""
    candidates: list[Any] = [(value,), [value]]
    if isinstance(value, str):
        try:
            candidates.append(ast.literal_eval(value.strip()))
        except (ValueError, SyntaxError):
            candidates.append({"true": True, "false": False}.get(value.lower()))
    if isinstance(value, float) and value.is_integer():
        candidates.append(int(value))
    if isinstance(value, (list, tuple)):
        candidates = [tuple(value), list(value)]
    if isinstance(value, Reference):
        candidates = [] if value.evaluated else [Reference(value.name, value.target, True)]
    return next((c for c in candidates if c is not None and fits(c, wanted)), None)
