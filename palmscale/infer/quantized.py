"""Quantized weights: 8 or 4 bits an element in place of 16 or 32, with scales in float32.

They are qwix's arrays, made by its explicit API. (Its providers, which rewrite a module's products,
silently quantize nothing that `lax.scan` runs over.) `model.attention.contract` takes them.
"""

import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from palmscale.errors import UserError
from palmscale.model import interface
from palmscale.partition.shardings import path_name

DTYPES = {"int8": jnp.int8, "int4": jnp.int4, "fp8": jnp.float8_e4m3fn}
# Elements that share a scale: with only 15 values they must be few, as in llama.cpp's Q4_0.
_TILE = 32


def check_quantizes(model: nn.Module, to: str) -> None:
    """Checks that the weights of a model can be quantized.

    Raises:
        UserError: `to` is not `int8`, `int4` or `fp8`, the module does not say how its weights may
            be quantized, or qwix is not installed.
    """
    if to not in DTYPES:
        raise UserError(f"weights cannot be quantized to {to!r}; use one of {', '.join(DTYPES)}.")
    weights = interface.decoding_weights(model)
    if weights is None or not weights.summed:
        raise UserError(
            f"the weights of {type(model).__name__} cannot be quantized: it has no"
            " `decoding_weights()` that says over which dims their products sum (`summed`); see"
            " palmscale.model.interface.DecodingWeights."
        )
    _qwix()


def quantize_leaf(model: nn.Module, name: str, w: jax.Array, to: str) -> Any:
    """Returns a parameter in the form of quantized generation, on the same devices.

    That is a `qwix.QArray` for a weight that the module lets quantize (`DecodingWeights.summed`),
    itself for one that it keeps, and an array of the module's dtype for any other. Each index of
    the dims that a product does not sum over, the layer's included, has its own scale; with `int4`,
    each index and 32 summed elements, or each head of an attention's output.

    Args:
        model: the parameter's module.
        name: its path, such as `layers/query`.
        w: the parameter, of any float dtype; stacked over layers or of one layer.
        to: `int8`, `int4` or `fp8` (float8_e4m3fn).
    """
    w = jnp.asarray(w)
    new = abstract_leaf(model, name, w, to)
    if not is_quantized(new) and new.dtype == w.dtype:
        return w
    shardings = jax.tree.map(lambda part: part.sharding, new)
    return jax.jit(_converted, static_argnums=(1, 2, 3), out_shardings=shardings)(
        w, model, name, to
    )


def abstract_leaf(model: nn.Module, name: str, w: Any, to: str) -> Any:
    """Returns the shapes of `quantize_leaf` with their shardings, from those of the parameter."""
    shapes = jax.eval_shape(lambda w: _converted(w, model, name, to), w)
    return jax.tree.map(
        lambda part: jax.ShapeDtypeStruct(
            part.shape, part.dtype, sharding=_sharding_of_part(part.shape, w)
        ),
        shapes,
    )


def abstract_tree(model: nn.Module, shapes: Any, to: str) -> Any:
    """Returns the shapes of all parameters of a model after quantization; see `abstract_leaf`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: abstract_leaf(model, path_name(path), leaf, to), shapes
    )


def is_quantized(leaf: Any) -> bool:
    """Returns whether a leaf of a model's variables is a quantized weight."""
    return hasattr(leaf, "qvalue")


def quantized_leaves(tree: Any) -> Iterator[Any]:
    """Yields the quantized weights of a tree."""
    return filter(is_quantized, jax.tree.leaves(tree, is_leaf=is_quantized))


def _converted(w: jax.Array, model: nn.Module, name: str, to: str) -> Any:
    weights, name = interface.decoding_weights(model), name.rpartition("/")[2]
    if name in weights.summed:
        return _quantized(w, weights.summed[name], to)
    return w if name in weights.kept else w.astype(model.dtype)


def _quantized(w: jax.Array, summed: tuple[int, ...], to: str) -> Any:
    *others, last = (dim % w.ndim for dim in summed)
    in_tiles = to == "int4"
    # A tile of a weight that sums over two dims, such as heads and their elements, is all of the
    # last, so that the scales follow the weight when it is reshaped.
    tiles = {last: math.gcd(w.shape[last], _TILE)} if in_tiles and not others else {}
    shared = {last} if in_tiles else {*others, last}
    channels = [dim for dim in range(w.ndim) if dim not in shared]
    return _qwix().quantize(
        w.astype(jnp.float32), DTYPES[to], channelwise_axes=channels, tiled_axes=tiles
    )


def _sharding_of_part(shape: tuple[int, ...], w: Any) -> jax.sharding.Sharding:
    """Returns where values or scales lie: as `w`, except that too short a dim is not split."""
    if not isinstance(w.sharding, NamedSharding):
        return w.sharding
    mesh, spec = w.sharding.mesh, w.sharding.spec
    axes = [*spec, *[None] * (len(shape) - len(spec))]

    def devices(target: Any) -> int:
        return math.prod(mesh.shape[a] for a in ((target,) if isinstance(target, str) else target))

    fitting = [
        target if target is None or size % devices(target) == 0 else None
        for size, target in zip(shape, axes, strict=True)
    ]
    return NamedSharding(mesh, PartitionSpec(*fitting))


def _qwix() -> ModuleType:
    try:
        import qwix
    except ImportError as error:
        raise UserError(
            "quantized weights need the package qwix, which is not installed; run: pip install"
            " 'palmscale[quantize]'"
        ) from error
    return qwix
