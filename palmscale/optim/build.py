"""Optimizers as gin binds them: frozen descriptions that build an optax transformation.

Hyperparameters have no default here: they live in configs/optim. Switches on which the paper is
silent default to what its code base does.
"""

import dataclasses
from typing import Any

import jax
import optax

from palmscale import axes
from palmscale.errors import UserError
from palmscale.optim.adafactor import scale_by_palm_adafactor
from palmscale.optim.schedules import Schedule


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adafactor:
    """PaLM's optimizer (section 5); see palmscale.optim.adafactor for the rule."""

    learning_rate: Schedule
    beta1: float
    beta2_exponent: float
    weight_decay_lr_exponent: float | None
    clip_global_norm: float | None
    clipping_threshold: float | None = 1.0
    min_parameter_scale: float = 1e-3
    momentum_dtype: str = "float32"

    def __post_init__(self) -> None:
        if not 0 <= self.beta1 < 1 or self.beta2_exponent <= 0:
            raise UserError(
                f"Adafactor.beta1={self.beta1} must be in [0, 1) and "
                f"beta2_exponent={self.beta2_exponent} above 0."
            )
        if self.momentum_dtype not in ("float32", "bfloat16"):
            raise UserError(
                f"Adafactor.momentum_dtype={self.momentum_dtype!r} is none of float32, bfloat16."
            )

    def build(self, logical_axes: Any) -> optax.GradientTransformation:
        """Returns the transformation for parameters with these logical axes (tuples of names)."""
        rule = scale_by_palm_adafactor(
            learning_rate=self.learning_rate,
            layer_dims=layer_dims(logical_axes),
            beta1=self.beta1,
            beta2_exponent=self.beta2_exponent,
            weight_decay_lr_exponent=self.weight_decay_lr_exponent,
            clipping_threshold=self.clipping_threshold,
            min_parameter_scale=self.min_parameter_scale,
            momentum_dtype=self.momentum_dtype,
        )
        return _after_clipping(self.clip_global_norm, rule)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW:
    """optax's AdamW behind the same clipping; decay is multiplied by the learning rate."""

    learning_rate: Schedule
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    clip_global_norm: float | None

    def build(self, logical_axes: Any) -> optax.GradientTransformation:
        """Returns the transformation; layers are independent in it, so the axes do not matter."""
        del logical_axes
        rule = optax.adamw(
            self.learning_rate,
            b1=self.beta1,
            b2=self.beta2,
            eps=self.eps,
            weight_decay=self.weight_decay,
        )
        return _after_clipping(self.clip_global_norm, rule)


Optimizer = Adafactor | AdamW


def layer_dims(logical_axes: Any) -> Any:
    """Returns, for each parameter, the dim that stacks layers, or -1."""
    return jax.tree.map(
        lambda names: names.index(axes.LAYERS) if axes.LAYERS in names else -1,
        logical_axes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def _after_clipping(
    max_norm: float | None, rule: optax.GradientTransformation
) -> optax.GradientTransformation:
    if max_norm is None:
        return rule
    return optax.chain(optax.clip_by_global_norm(max_norm), rule)
