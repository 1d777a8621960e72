"""What a user's module supports and lacks, without rows, parameters or devices."""

import dataclasses
import importlib
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from flax import linen as nn

from palmscale.errors import UserError
from palmscale.model import interface, tracing
from palmscale.partition.rules import MeshAxes
from palmscale.partition.shardings import path_name, spec
from palmscale.train.state import parameter_problem

BYTE_TOKENS = 259  # bytes and three special tokens, the vocabulary of a run without another


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModuleReport:
    """What a module supports.

    Attributes:
        facts: pairs of a name and what is said of it.
        parameters: name, shape, dtype and logical axes of each.
        problems: why a run would refuse it; empty where it can be trained.
    """

    facts: list[tuple[str, str]]
    parameters: list[tuple[str, str, str, str]]
    problems: list[str]


def find_module(name: str, fields: Mapping[str, Any]) -> nn.Module:
    """Returns the module `my_model:Llama` with the given fields; imports `my_model`.

    A required field `num_tokens` that is not given is that of the vocabulary of bytes.

    Raises:
        UserError: there is no such module, or its fields do not fit.
    """
    path, colon, attribute = name.partition(":")
    if not path or not colon or not attribute:
        raise UserError(f"{name} names no module; expected MODULE:CLASS, such as my_model:Llama.")
    try:
        kind = getattr(importlib.import_module(path), attribute)
    except AttributeError:
        raise UserError(f"the module {path} has no {attribute}.") from None
    except Exception as error:  # whatever the user's code raises
        where = f"; looked in {os.getcwd()} too" if isinstance(error, ImportError) else ""
        raise UserError(f"cannot import {path}: {type(error).__name__}: {error}{where}.") from error
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise UserError(f"{name} is no flax.linen.Module.")
    settable = {
        field.name: field for field in dataclasses.fields(kind) if field.name not in _OF_LINEN
    }
    if unknown := fields.keys() - settable:
        raise UserError(
            f"{attribute} has no field {', '.join(sorted(unknown))}; it has {', '.join(settable)}."
        )
    required = [name for name, field in settable.items() if _is_required(field)]
    if "num_tokens" in required:
        fields = {"num_tokens": BYTE_TOKENS, **fields}
    if missing := [name for name in required if name not in fields]:
        raise UserError(f"{attribute} needs {', '.join(missing)}; add {missing[0]}=VALUE.")
    try:
        return kind(**fields)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{attribute} refuses {fields}: {type(error).__name__}: {error}") from error


def report(
    model: nn.Module, *, sequence_length: int, rules: Mapping[str, MeshAxes]
) -> ModuleReport:
    """Returns what a module supports, by tracing it.

    Args:
        model: any Linen module.
        sequence_length: of the rows that it is traced for.
        rules: logical axis to mesh axis; a name without a rule is no problem, but said.
    """
    facts, problems = [("module", _text(model))], []
    try:
        interface.check_trainable(model)
        boxed = tracing.abstract_variables(model)[tracing.PARAMS]
    except UserError as error:
        return ModuleReport(facts=facts, parameters=[], problems=[str(error)])
    leaves = jax.tree_util.tree_leaves_with_path(
        boxed, is_leaf=lambda node: isinstance(node, nn.Partitioned)
    )
    parameters = {path_name(path): leaf for path, leaf in leaves}
    try:
        traced = tracing.trace(model, sequence_length=sequence_length)
        facts += _outputs(traced)
        if tracing.takes_segments(model):
            tracing.trace(model, sequence_length=sequence_length, is_packed=True)
    except UserError as error:
        problems.append(str(error))
    facts += _parameters(parameters, rules)
    facts += _optional(model, sequence_length)
    problems += _problems(parameters, rules)
    return ModuleReport(
        facts=facts, parameters=[_row(*item) for item in parameters.items()], problems=problems
    )


_OF_LINEN = ("parent", "name")


def _is_required(field: dataclasses.Field) -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _text(model: nn.Module) -> str:
    fields = [
        f"{field.name}={getattr(model, field.name)!r}"
        for field in dataclasses.fields(model)
        if field.name not in _OF_LINEN
    ]
    return f"{type(model).__module__}:{type(model).__qualname__}({', '.join(fields)})"


def _outputs(traced: tracing.Traced) -> Iterator[tuple[str, str]]:
    for name, array in (("hidden", traced.hidden), ("unembed", traced.logits)):
        yield name, f"{array.dtype} {list(array.shape)}"
    for collection in traced.sown:
        yield "sown", f"{collection}: not part of the loss; a run trains on cross entropy alone"


def _parameters(
    parameters: Mapping[str, Any], rules: Mapping[str, MeshAxes]
) -> Iterator[tuple[str, str]]:
    arrays = [_array(leaf) for leaf in parameters.values()]
    dtypes = sorted({str(array.dtype) for array in arrays})
    count = sum(math.prod(array.shape) for array in arrays)
    yield "parameters", f"{count:,} in {len(arrays)} arrays, {' and '.join(dtypes)}"
    names = dict.fromkeys(name for leaf in parameters.values() for name in _names(leaf) if name)
    if new := [name for name in names if name not in rules]:
        yield "axes without a rule", f"{', '.join(new)}: add them to Layout.overrides"


def _optional(model: nn.Module, sequence_length: int) -> Iterator[tuple[str, str]]:
    """Yields what the module offers besides `hidden` and `unembed`, and what follows if not."""
    tokens = interface.num_tokens(model)
    yield "num_tokens", "not checked against the vocabulary" if tokens is None else f"{tokens:,}"
    packs = tracing.takes_segments(model)
    yield "packed rows", "yes" if packs else "no: hidden takes no segment_BL and position_BL"
    try:
        cache = tracing.trace_extend(model)
        yield "generation", f"yes, with a cache of {cache.layers} layers x {cache.head_dim}"
    except UserError as error:
        yield "generation", f"no: {error}"
    flops = interface.attention_flops_per_token(model, sequence_length)
    yield "MFU", "counts attention" if flops else "without attention: no attention_flops_per_token"


def _problems(parameters: Mapping[str, Any], rules: Mapping[str, MeshAxes]) -> Iterator[str]:
    for path, leaf in parameters.items():
        if problem := parameter_problem(leaf):
            yield f"parameter {path} {problem}."
            continue
        try:
            spec([name if name in rules else None for name in leaf.names], rules)
        except UserError as error:
            yield f"parameter {path}: {error}"


def _row(path: str, leaf: Any) -> tuple[str, str, str, str]:
    array = _array(leaf)
    names = " ".join(name or "-" for name in _names(leaf)) or "none"
    return path, " ".join(map(str, array.shape)), str(array.dtype), names


def _array(leaf: Any) -> Any:
    return leaf.value if isinstance(leaf, nn.Partitioned) else leaf


def _names(leaf: Any) -> tuple[str | None, ...]:
    return tuple(leaf.names) if isinstance(leaf, nn.Partitioned) else ()
