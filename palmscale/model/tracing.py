"""What tracing shows of a module: whether it can be trained, before any rows are built.

Nothing is computed and no parameters exist, so a model of any size is traced in seconds.
"""

import dataclasses
import inspect
import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import errors
from flax import linen as nn

from palmscale.errors import UserError
from palmscale.model import interface
from palmscale.model.attention import Cache
from palmscale.model.interface import CacheSpec

PARAMS = "params"
_FLAX_PAGE = re.compile(r" \(https://flax\S+\)")  # which ends each of Flax's messages
_REMEDIES = {
    errors.PartitioningUnspecifiedError: (
        "; name the axis that nn.scan or nn.vmap adds, by"
        " metadata_params={nn.PARTITION_NAME: 'layers'}"
    ),
    errors.InvalidRngError: (
        "; an evaluation gives no randomness, so a layer that needs some must do without it, for"
        " example by deterministic=not self.has_rng('dropout')"
    ),
}
_PACKING = ("segment_BL", "position_BL")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traced:
    """The outputs of a module for a batch.

    Attributes:
        hidden: shape [B, L, D] and dtype of `hidden`.
        logits: shape [B, L, V] and dtype of `unembed`.
        sown: collections that the module sows values into; the loss includes none of them.
    """

    hidden: jax.ShapeDtypeStruct
    logits: jax.ShapeDtypeStruct
    sown: tuple[str, ...]


def trace(
    model: nn.Module, *, sequence_length: int, sequences: int = 1, is_packed: bool = False
) -> Traced:
    """Returns what the module's methods give for a batch, as an evaluation calls them.

    Args:
        model: with `hidden` and `unembed`.
        sequence_length: L.
        sequences: B; in a layout, a number that divides over its data-parallel devices.
        is_packed: whether rows hold several documents, so that `hidden` gets `segment_BL` and
            `position_BL`.

    Raises:
        UserError: a method fails, or returns what the loss cannot use.
    """
    if is_packed:
        check_takes_segments(model)
    name = type(model).__name__
    variables = abstract_variables(model)
    others = tuple(sorted(variables.keys() - {PARAMS}))
    tokens_BL = jax.ShapeDtypeStruct((sequences, sequence_length), jnp.int32)
    packing = {argument: tokens_BL for argument in _PACKING} if is_packed else {}
    try:
        x_BLD = _apply(model, "hidden", variables[PARAMS], tokens_BL, **packing)
    except Exception as error:
        if others:
            raise UserError(
                f"{name} keeps variables besides its parameters ({', '.join(others)}), and a run"
                " trains and saves parameters alone; for example, replace nn.BatchNorm by"
                " nn.LayerNorm."
            ) from error
        raise _failure(name, "hidden", f"rows of {sequence_length} tokens", error) from error
    _check_hidden(f"{name}.hidden", x_BLD, tokens_BL.shape)
    try:
        logits_BLV = _apply(model, "unembed", variables[PARAMS], x_BLD)
    except Exception as error:
        raise _failure(name, "unembed", f"x_BLD of shape {x_BLD.shape}", error) from error
    _check_logits(name, logits_BLV, tokens_BL.shape, interface.num_tokens(model))
    return Traced(hidden=x_BLD, logits=logits_BLV, sown=others)


def trace_adapted(
    model: nn.Module, boxed_params: Any, *, sequence_length: int, sequences: int = 1
) -> None:
    """Checks that the module takes weights with adapters.

    Args:
        model: with `hidden`.
        boxed_params: shapes of the parameters with adapters; see `palmscale.model.lora`.
        sequence_length: L.
        sequences: B; see `trace`.

    Raises:
        UserError: `hidden` fails with them.
    """
    tokens_BL = jax.ShapeDtypeStruct((sequences, sequence_length), jnp.int32)
    try:
        _apply(model, "hidden", boxed_params, tokens_BL)
    except Exception as error:  # whatever a user's module raises
        raise UserError(
            f"{_failure(type(model).__name__, 'hidden', 'weights with adapters', error)}; read them"
            f" from the collection {interface.DECODING!r}, and multiply with"
            " palmscale.model.attention.contract, as PaLM does."
        ) from error


def trace_extend(model: nn.Module) -> CacheSpec:
    """Returns the description of the module's cache, after tracing `extend` with one.

    Raises:
        UserError: the module cannot generate text, or `extend` fails or returns something else.
    """
    name, cache_spec = type(model).__name__, interface.cache_spec(model)
    shape = (cache_spec.layers, 1, 8, cache_spec.head_dim)  # with room for eight tokens
    values = jax.ShapeDtypeStruct(shape, cache_spec.dtype)
    cache = Cache(values, values, jax.ShapeDtypeStruct((), jnp.int32))
    tokens_BL = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    try:
        params = abstract_variables(model)[PARAMS]
        x_BLD, extended = _apply(model, "extend", params, tokens_BL, cache)
        is_like_before = jax.tree.map(_form, extended) == jax.tree.map(_form, cache)
    except Exception as error:
        raise _failure(name, "extend", f"a cache {shape} and 4 tokens", error) from error
    _check_hidden(f"{name}.extend", x_BLD, tokens_BL.shape)
    if not is_like_before:
        raise UserError(
            f"{name}.extend returns a cache of other shapes or dtypes than it is given."
        )
    return cache_spec


def abstract_variables(model: nn.Module) -> Any:
    """Returns the shapes of the module's variables by collection, parameters in their boxes.

    Raises:
        UserError: the module cannot be initialized.
    """

    def init() -> Any:  # The key is created inside too, since the layout's devices may not exist.
        return model.init({PARAMS: jax.random.key(0)}, jnp.zeros((1, 1), jnp.int32))

    name = type(model).__name__
    if not callable(model):
        raise UserError(
            f"{name} has no `__call__`, which initializes it; add one that returns"
            " self.unembed(self.hidden(tokens_BL))."
        )
    try:
        variables = jax.eval_shape(init)
    except UserError:
        raise
    except Exception as error:  # whatever a user's module raises
        raise _failure(name, "init", "tokens of shape (1, 1)", error) from error
    if PARAMS not in variables:
        raise UserError(f"{name} has no parameters.")
    return variables


def takes_segments(model: nn.Module) -> bool:
    """Returns whether `hidden` takes packed rows."""
    parameters = inspect.signature(model.hidden).parameters
    return parameters.keys() >= set(_PACKING) or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )


def check_takes_segments(model: nn.Module) -> None:
    """Raises UserError for a module that cannot be trained on packed rows."""
    if not takes_segments(model):
        raise UserError(
            f"the rows are packed, and {type(model).__name__}.hidden takes no"
            f" {' and '.join(_PACKING)}; add these arguments, or set Data.packing='concatenate'."
        )


def _apply(model: nn.Module, method: str, boxed_params: Any, *arrays: Any, **more: Any) -> Any:
    params = jax.tree.map(
        lambda leaf: leaf.value if isinstance(leaf, nn.Partitioned) else leaf,
        boxed_params,
        is_leaf=lambda node: isinstance(node, nn.Partitioned),
    )

    def call(params: Any, arrays: Any, more: Any) -> Any:
        return model.apply(interface.variables_of(params), *arrays, **more, method=method)

    return jax.eval_shape(call, params, arrays, more)


def _check_hidden(name: str, x_BLD: Any, tokens: tuple[int, int]) -> None:
    shape, dtype = getattr(x_BLD, "shape", None), getattr(x_BLD, "dtype", None)
    is_right = shape is not None and len(shape) == 3 and shape[:2] == tokens
    if not is_right or not jnp.issubdtype(dtype, jnp.floating):
        raise UserError(
            f"{name} returns {_said(x_BLD)} for tokens of shape {tokens};"
            f" expected floats of shape ({tokens[0]}, {tokens[1]}, D)."
        )


def _check_logits(
    name: str, logits_BLV: Any, tokens: tuple[int, int], num_tokens: int | None
) -> None:
    shape, dtype = getattr(logits_BLV, "shape", None), getattr(logits_BLV, "dtype", None)
    if shape is None or len(shape) != 3 or shape[:2] != tokens:
        raise UserError(
            f"{name}.unembed returns {_said(logits_BLV)} for tokens of shape {tokens}; expected"
            f" logits of shape ({tokens[0]}, {tokens[1]}, V)."
        )
    if dtype != jnp.float32:
        raise UserError(
            f"{name}.unembed returns {dtype} logits; it must return float32, for example by"
            " jnp.einsum(..., preferred_element_type=jnp.float32)."
        )
    if num_tokens is not None and shape[-1] < num_tokens:
        raise UserError(
            f"{name}.unembed returns {shape[-1]} logits for num_tokens={num_tokens}; every id needs"
            " one."
        )


def _form(array: Any) -> tuple[Any, Any]:
    return array.shape, array.dtype


def _said(value: Any) -> str:
    if hasattr(value, "shape"):
        return f"{value.dtype} of shape {value.shape}"
    return f"a {type(value).__name__}"


def _failure(name: str, method: str, given: str, error: Exception) -> UserError:
    if isinstance(error, UserError):
        return error
    lines = _FLAX_PAGE.sub("", str(error)).strip().splitlines() or [""]
    remedy = _REMEDIES.get(type(error), "")
    return UserError(
        f"{name}.{method} fails for {given}: {type(error).__name__}: {lines[0]}{remedy}"
    )
