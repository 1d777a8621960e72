"""What a function is, as JSON: where it is defined, and the values that it holds.

An optax transformation or schedule is a pair of functions, or one, that holds its settings in a
closure. Two of them with the same description do the same, so a run can be compared with what its
checkpoint stores, and with the runs of other hosts. The code of a function is not compared.
"""

import contextlib
import contextvars
import functools
import hashlib
import inspect
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import optax

Describe = Callable[[Any], Any]

FUNCTION = "function"  # the key of a function's name
_SMALL = 64  # elements; larger arrays are described by their digest
# Functions that are being described: one may hold another that holds the first.
_under_way: contextvars.ContextVar[frozenset[int]] = contextvars.ContextVar(
    "_under_way", default=frozenset()
)
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def name_of(function: Any) -> str:
    """Returns `module:name` of a function or class, without the modules that are private.

    Of a function made by another, such as the update of `optax.lion`, this is the outer one.
    """
    module = getattr(function, "__module__", None) or type(function).__module__
    public = []
    for part in module.split("."):
        if part.startswith("_") and public:
            break
        public.append(part)
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{'.'.join(public)}:{name.partition('.<locals>')[0]}"


def is_transformation(value: Any) -> bool:
    """Returns whether `value` is an optax transformation, which is a tuple of two functions."""
    return isinstance(value, optax.GradientTransformation)


def describe_opaque(value: Any, describe: Describe) -> Any:
    """Returns a function, a transformation, an array or any other object as JSON.

    Args:
        value: no dataclass, container or plain value.
        describe: describes what `value` holds.
    """
    if is_transformation(value):
        return _transformation(value, describe)
    if isinstance(value, type):
        return name_of(value)
    if isinstance(value, functools.partial):
        return _partial(value, describe)
    if isinstance(value, np.generic) and value.ndim == 0:
        return value.item()
    if hasattr(value, "__array__"):
        return _array(np.asarray(value))
    if callable(value):
        return _function(value, describe)
    if " at 0x" in repr(value) and hasattr(value, "__dict__"):
        return {FUNCTION: name_of(type(value)), **describe(vars(value))}
    return _ADDRESS.sub("", repr(value))


def _transformation(pair: optax.GradientTransformation, describe: Describe) -> Any:
    """Returns the settings of both functions at once, since one call has usually made them."""
    held = _held(pair.update)
    inner = held.get("tx")
    if isinstance(inner, optax.GradientTransformation) and inner.init is pair.init:
        return _transformation(inner, describe)  # a wrapper that only accepts more arguments
    if not _held(pair.init):
        return describe(pair.update)
    if name_of(pair.init) != name_of(pair.update):
        return {"init": describe(pair.init), "update": describe(pair.update)}
    held = _held(pair.init) | held
    if {"init_fns", "update_fns"} <= held.keys():  # optax.chain
        pairs = zip(held.pop("init_fns"), held.pop("update_fns"), strict=True)
        held["parts"] = [optax.GradientTransformation(*functions) for functions in pairs]
    return {FUNCTION: name_of(pair.update), **describe(held)}


def _partial(value: functools.partial, describe: Describe) -> dict[str, Any]:
    arguments = {str(index): item for index, item in enumerate(value.args)} | value.keywords
    return {FUNCTION: name_of(value.func), **describe(arguments)}


def _function(value: Any, describe: Describe) -> Any:
    function = inspect.unwrap(value)
    if inspect.ismethod(function):
        return {FUNCTION: name_of(function), "self": describe(function.__self__)}
    if not inspect.isroutine(function) and hasattr(function, "__dict__"):
        return {FUNCTION: name_of(type(function)), **describe(vars(function))}
    held = _held(function)
    if not held or id(function) in _under_way.get():
        return name_of(function)
    token = _under_way.set(_under_way.get() | {id(function)})
    try:
        return {FUNCTION: name_of(function), **describe(held)}
    finally:
        _under_way.reset(token)


def _held(function: Any) -> dict[str, Any]:
    """Returns the variables that a function closes over and its defaults, by name."""
    function = inspect.unwrap(function)
    if not inspect.isfunction(function):
        return {}
    held = {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not inspect.Parameter.empty and parameter.default is not None
    }
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # not assigned yet
            if cell.cell_contents is not function:
                held[name] = cell.cell_contents
    return held


def _array(array: np.ndarray) -> Any:
    if array.size <= _SMALL:
        return array.tolist()
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    return {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": digest}
