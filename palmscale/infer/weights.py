"""The form in which generation holds a model's weights: cast or quantized once, apart by layer."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from palmscale.infer.quantized import (
    abstract_tree,
    check_quantizes,
    is_quantized,
    quantize_leaf,
)
from palmscale.model import interface
from palmscale.model.adapted import is_adapted
from palmscale.model.interface import DECODING, is_formed
from palmscale.partition.shardings import path_name


def form_on(platform: str) -> dict[str, Any]:
    """Returns the arguments `dtype` and `apart` of `decoding_form` that suit a platform.

    Args:
        platform: `cpu`, `gpu` or `tpu`.
    """
    # XLA's CPU backend takes five times as long for a product in bfloat16.
    dtype = "float32" if platform == "cpu" else None
    return {"dtype": dtype, "apart": True}


def decoding_form(
    model: nn.Module,
    params: Any,
    *,
    dtype: str | None = None,
    apart: bool = False,
    quantize: str | None = None,
    donate: bool = False,
) -> tuple[nn.Module, dict[str, Any]]:
    """Returns a module and the variables with which it generates.

    Parameters change their form one after another. A module without `decoding_weights` keeps them.

    Args:
        model: the module that was trained.
        params: its parameters, which may be quantized already, and have adapters.
        dtype: to compute in; None: the module's own.
        apart: whether each layer's weights become arrays of their own. A loop over stacked weights
            copies a layer's slice each step where XLA does not fuse it into the product: on one CPU
            core a token then takes 2.3 times as long. On TPUs it copies each layer's cache: 64
            sequences of 2,048 of the 8B model on 16 v5e take 7.1 ms a token by the compiler's
            cycles, and 1.8 ms with layers apart.
        quantize: `int8`, `int4` or `fp8`, see `palmscale.infer.quantized`; None: weights that are
            not quantized already are cast.
        donate: whether to free each parameter as soon as its new form exists; at most one is held
            twice.

    Raises:
        UserError: the module's weights cannot be quantized.
    """
    if quantize is not None:
        check_quantizes(model, quantize)
    weights = interface.decoding_weights(model)
    if weights is None:
        return model, {"params": params}
    if dtype is not None:
        model = model.clone(dtype=dtype)

    def quantized(name: str, leaf: Any) -> Any:
        if is_adapted(leaf):
            return leaf.replace(kernel=quantized(name, leaf.kernel))
        return leaf if is_quantized(leaf) else quantize_leaf(model, name, leaf, quantize)

    def formed(path: Any, leaf: Any) -> Any:
        name = path_name(path)
        new = leaf if quantize is None else quantized(name, leaf)
        is_kept = is_quantized(new) or name.rpartition("/")[2] in weights.kept
        split = apart and name.partition("/")[0] == weights.stacked
        new = _formed(new, None if is_kept else model.dtype, split)
        if donate:
            _free(leaf, jax.block_until_ready(new))
        return new

    formed_params = jax.tree_util.tree_map_with_path(formed, params, is_leaf=is_formed)
    if apart:
        formed_params = {
            **formed_params,
            weights.stacked: _by_layer(params[weights.stacked], formed_params[weights.stacked]),
        }
    return model, {DECODING: formed_params}


def abstract_form(
    model: nn.Module,
    params: Any,
    *,
    dtype: str | None = None,
    apart: bool = False,
    quantize: str | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Returns what `decoding_form` does, of shapes with shardings: nothing is computed.

    The arguments are those of `decoding_form`.
    """
    if quantize is not None:
        check_quantizes(model, quantize)
        params = abstract_tree(model, params, quantize)
    formed = []

    def variables(params: Any) -> Any:
        formed.append(decoding_form(model, params, dtype=dtype, apart=apart))
        return formed[0][1]

    def placed(path: Any, shape: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        leaf = params
        for key in path[1:]:  # the first is the collection's
            if isinstance(key, jax.tree_util.DictKey):
                leaf = leaf[key.key]
            elif isinstance(key, jax.tree_util.GetAttrKey):  # a part of a quantized weight
                leaf = getattr(leaf, key.name)
        dims = (*leaf.sharding.spec, *[None] * (leaf.ndim - len(leaf.sharding.spec)))
        own = PartitionSpec(*dims[leaf.ndim - shape.ndim :])  # a layer's array lacks the first dim
        sharding = NamedSharding(leaf.sharding.mesh, own)
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    shapes = jax.eval_shape(variables, params)
    return formed[0][0], jax.tree_util.tree_map_with_path(placed, shapes)


def _formed(leaf: Any, dtype: str | None, split: bool) -> Any:
    if not split and dtype in (None, str(leaf.dtype)):
        return leaf
    return _convert(leaf, dtype, split)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _convert(leaf: Any, dtype: str | None, split: bool) -> Any:
    cast = leaf if dtype is None else leaf.astype(jnp.dtype(dtype))
    if not split:
        return cast
    parts, structure = jax.tree.flatten(cast)
    return tuple(structure.unflatten(layer) for layer in zip(*map(tuple, parts), strict=True))


def _by_layer(stacked: Any, split: Any) -> tuple[Any, ...]:
    """Returns a tree a layer, from a tree like `stacked` whose leaves are tuples of N."""
    outer = jax.tree.structure(stacked, is_leaf=is_formed)
    leaves = outer.flatten_up_to(split)
    return tuple(outer.unflatten(layer) for layer in zip(*leaves, strict=True))


def _free(old: Any, new: Any) -> None:
    """Deletes the arrays of `old` that are not part of `new`."""
    kept = {id(part) for part in jax.tree.leaves(new)}
    for part in jax.tree.leaves(old):
        if isinstance(part, jax.Array) and id(part) not in kept:
            part.delete()
