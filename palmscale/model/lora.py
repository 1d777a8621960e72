"""LoRA (Hu et al. 2021, arXiv:2106.09685): which weights of a model get adapters, and their start.

A parameter tree with adapters is that of the module, with an `Adapted` in place of each weight that
has one: `layers/query` becomes `layers/query/kernel`, `layers/query/down` and `layers/query/up`.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from palmscale import axes
from palmscale.errors import UserError
from palmscale.model import interface
from palmscale.model.adapted import PARTS, Adapted, is_adapted
from palmscale.trees import named_leaves, nested


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters: what trains in place of the weights, which stay as they are.

    Attributes:
        rank: r, columns of `down` and rows of `up`.
        alpha: the adapter's product is scaled by alpha / rank, as in the paper and in PEFT.
        targets: names of the weights that get one, among those of the module's
            `decoding_weights().summed`; the paper's are query and value.

    Raises:
        UserError: a field is out of range.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...] = ("query", "value")

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"Lora.rank={self.rank} must be at least 1.")
        if not 0 < self.alpha < math.inf:
            raise UserError(f"Lora.alpha={self.alpha} must be a number above 0.")
        if not self.targets:
            raise UserError("Lora.targets=() must name a weight, for example ('query', 'value').")

    @property
    def scale(self) -> float:
        """The factor of an adapter's product."""
        return self.alpha / self.rank


def adapted_shapes(lora: Lora, model: nn.Module, boxed: Any) -> Any:
    """Returns the shapes of a model's parameters with adapters, boxed with their logical axes.

    An adapter is split over devices like its weight; the rank is not split.

    Args:
        lora: which weights get adapters.
        model: whose parameters they are.
        boxed: shapes of the parameters, boxed with their logical axes.

    Raises:
        UserError: the module does not say over which dims its products sum, or has no such weight.
    """
    weights = interface.decoding_weights(model)
    if weights is None or not weights.summed:
        raise UserError(
            f"{type(model).__name__} cannot have adapters: it has no `decoding_weights()` that says"
            " over which dims its products sum (`summed`); see"
            " palmscale.model.interface.DecodingWeights."
        )
    leaves = named_leaves(boxed, is_leaf=_is_box)
    names = {path.rpartition("/")[2] for path in leaves} & weights.summed.keys()
    if missing := [target for target in lora.targets if target not in names]:
        raise UserError(
            f"Lora.targets has {', '.join(missing)}; {type(model).__name__} has the weights"
            f" {', '.join(sorted(names))}."
        )

    def adapted(path: Any, box: Any) -> Any:
        name = jax.tree_util.keystr(path[-1:], simple=True)
        if name not in lora.targets:
            return box
        return _adapted_box(lora, box, weights.summed[name])

    return jax.tree_util.tree_map_with_path(adapted, boxed, is_leaf=_is_box)


def _adapted_box(lora: Lora, box: nn.LogicallyPartitioned, summed: tuple[int, ...]) -> Adapted:
    shape, names = box.value.shape, box.names
    summed = tuple(sorted(dim % len(shape) - len(shape) for dim in summed))
    chosen = [dim + len(shape) for dim in summed]
    stack = [dim for dim, name in enumerate(names) if name == axes.LAYERS]
    others = [dim for dim in range(len(shape)) if dim not in (*stack, *chosen)]

    def part(before: list[int], after: list[int]) -> nn.LogicallyPartitioned:
        return nn.LogicallyPartitioned(
            jax.ShapeDtypeStruct(
                (*(shape[d] for d in before), lora.rank, *(shape[d] for d in after)),
                jnp.float32,
            ),
            (*(names[d] for d in before), None, *(names[d] for d in after)),
        )

    return Adapted(
        kernel=box,
        down=part([*stack, *chosen], []),
        up=part(stack, others),
        scale=lora.scale,
        summed=summed,
    )


def initial_adapters(shapes: Any, key: jax.Array) -> dict[str, jax.Array]:
    """Returns adapters that change nothing yet, by path: `up` is 0 and `down` N(0, 1 / fan-in).

    Args:
        shapes: of parameters with adapters.
        key: of the draws.
    """
    found = {}
    for path, weight in named_leaves(shapes, is_leaf=is_adapted).items():
        if is_adapted(weight):
            key, own = jax.random.split(key)
            fan_in = math.prod(weight.down.shape[weight.stack_dims : -1])
            down = jax.random.normal(own, weight.down.shape) / math.sqrt(fan_in)
            found |= {f"{path}/down": down, f"{path}/up": jnp.zeros(weight.up.shape)}
    return found


def base_of(tree: Any) -> Any:
    """Returns a tree with adapters as that of the module: each weight is its kernel alone."""
    return jax.tree.map(
        lambda leaf: leaf.kernel if is_adapted(leaf) else leaf, tree, is_leaf=is_adapted
    )


def base_paths(tree: Any) -> dict[str, str]:
    """Returns where a tree with adapters has each parameter of the module: path to path."""
    leaves = named_leaves(tree, is_leaf=is_adapted)
    return {path: f"{path}/kernel" if is_adapted(leaf) else path for path, leaf in leaves.items()}


def adapters_of(tree: Any) -> dict[str, Any]:
    """Returns the adapters of a tree alone, in nested dicts: as a checkpoint stores them."""
    found = {}
    for path, leaf in named_leaves(tree, is_leaf=is_adapted).items():
        if is_adapted(leaf):
            found |= {f"{path}/{part}": getattr(leaf, part) for part in PARTS}
    return nested(found)


def joined(template: Any, base: Mapping[str, Any], adapters: Mapping[str, Any]) -> Any:
    """Returns parameters with adapters, from the base's and the adapters' leaves by path.

    Args:
        template: a tree with adapters, of anything.
        base: by the module's own paths, `layers/query`; a weight may be quantized.
        adapters: by `layers/query/down` and `layers/query/up`.
    """

    def one(path: Any, leaf: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not is_adapted(leaf):
            return base[name]
        parts = {part: adapters[f"{name}/{part}"] for part in PARTS}
        return leaf.replace(kernel=base[name], **parts)

    return jax.tree_util.tree_map_with_path(one, template, is_leaf=is_adapted)


def merged(weight: Adapted) -> jax.Array:
    """Returns the sum of a weight and its adapter, in float32 cast to the weight's dtype."""
    return (weight.kernel + weight.change()).astype(weight.kernel.dtype)


def _is_box(leaf: Any) -> bool:
    return isinstance(leaf, nn.Partitioned)
