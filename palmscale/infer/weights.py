"""The form in which generation holds a model's weights: cast once, and apart by layer."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from palmscale.model import interface
from palmscale.model.interface import DECODING


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
    donate: bool = False,
) -> tuple[nn.Module, dict[str, Any]]:
    """Returns a module and the variables with which it generates.

    A module without `decoding_weights` stays as it is.

    Args:
        model: the module that was trained.
        params: its parameters.
        dtype: to compute in; None: the module's own.
        apart: whether each layer's weights become arrays of their own. A loop over stacked weights
            copies a layer's slice each step where XLA does not fuse it into the product: on one CPU
            core a token then takes 2.3 times as long. On TPUs it copies each layer's cache: 64
            sequences of 2,048 of the 8B model on 16 v5e take 7.1 ms a token by the compiler's
            cycles, and 1.8 ms with layers apart.
        donate: whether to free each parameter as soon as its new form exists; at most one is held
            twice.
    """
    weights = interface.decoding_weights(model)
    if weights is None:
        return model, {"params": params}
    if dtype is not None:
        model = model.clone(dtype=dtype)

    def formed(name: str, leaf: jax.Array, *, split: bool) -> Any:
        cast = None if name in weights.kept else model.dtype
        new = _formed(leaf, cast, split)
        if donate and new is not leaf:
            leaf.delete()
        return new

    formed_params = {}
    for name, value in params.items():
        if name != weights.stacked:
            formed_params[name] = formed(name, value, split=False)
            continue
        layers = {key: formed(key, leaf, split=apart) for key, leaf in value.items()}
        if apart:
            depth = len(next(iter(layers.values())))
            layers = tuple({key: leaf[n] for key, leaf in layers.items()} for n in range(depth))
        formed_params[name] = layers
    return model, {DECODING: formed_params}


def abstract_form(model: nn.Module, params: Any, **form: Any) -> tuple[nn.Module, dict[str, Any]]:
    """Returns what `decoding_form` does, of shapes with shardings: nothing is computed.

    Args:
        model: the module that was trained.
        params: shapes of its parameters, with shardings.
        form: the other arguments of `decoding_form`.
    """
    formed_model, _ = decoding_form(model, {}, **form)
    shapes = jax.eval_shape(lambda params: decoding_form(model, params, **form)[1], params)

    def placed(path: Any, shape: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        leaf = params
        for key in path[1:]:  # the first is the collection's
            if isinstance(leaf, Mapping) and isinstance(key, jax.tree_util.DictKey):
                leaf = leaf[key.key]
        dims = (*leaf.sharding.spec, *[None] * (leaf.ndim - len(leaf.sharding.spec)))
        own = PartitionSpec(*dims[leaf.ndim - shape.ndim :])  # a layer's array lacks the first dim
        sharding = NamedSharding(leaf.sharding.mesh, own)
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)

    return formed_model, jax.tree_util.tree_map_with_path(placed, shapes)


def _formed(leaf: jax.Array, dtype: str | None, split: bool) -> Any:
    if not split and dtype in (None, str(leaf.dtype)):
        return leaf
    return _convert(leaf, dtype, split)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _convert(leaf: jax.Array, dtype: str | None, split: bool) -> Any:
    cast = leaf if dtype is None else leaf.astype(jnp.dtype(dtype))
    return tuple(cast) if split else cast
