"""Optimizers: frozen descriptions that build an optax transformation.

Hyperparameters have no defaults here; configs/optim sets them. Options that the paper does not
mention default to the behavior of its code base.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax

from palmscale import axes
from palmscale.errors import UserError
from palmscale.optim.adafactor import scale_by_palm_adafactor
from palmscale.optim.interface import Schedule, check_schedule

_Need = tuple[Callable[[Any], bool], str]  # a condition on a field's value, and its description
_BETA: _Need = (lambda value: 0 <= value < 1, "in [0, 1)")
_POSITIVE: _Need = (lambda value: value > 0, "above 0")
_NOT_NEGATIVE: _Need = (lambda value: value >= 0, "0 or more")
_POSITIVE_OR_NONE: _Need = (lambda value: value is None or value > 0, "above 0, or None for none")
_MOMENTUM_DTYPE: _Need = (
    lambda value: value in ("float32", "bfloat16"),
    "'float32' or 'bfloat16'",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adafactor:
    """PaLM's optimizer (section 5); palmscale.optim.adafactor documents the rule.

    Attributes:
        learning_rate: schedule of the relative rate: 1e-2 moves a weight by 1% of its RMS.
        beta1: decay rate of the momentum.
        beta2_exponent: the second moment's decay rate at step k is 1 - k^-beta2_exponent.
        weight_decay_lr_exponent: each step decays weights by lr to this power; None: no decay.
        clip_global_norm: largest global norm of the gradients; None: no clipping.
        clipping_threshold: largest RMS of a parameter's update; None: no clipping.
        min_parameter_scale: lower bound of a parameter's RMS, which lets zero parameters move.
        momentum_dtype: dtype of the momentum: `float32` or `bfloat16`.

    Raises:
        UserError: a field is out of range.
    """

    learning_rate: Schedule
    beta1: float
    beta2_exponent: float
    weight_decay_lr_exponent: float | None
    clip_global_norm: float | None
    clipping_threshold: float | None = 1.0
    min_parameter_scale: float = 1e-3
    momentum_dtype: str = "float32"

    def __post_init__(self) -> None:
        _check(
            self,
            beta1=_BETA,
            beta2_exponent=_POSITIVE,
            weight_decay_lr_exponent=_POSITIVE_OR_NONE,
            clip_global_norm=_POSITIVE_OR_NONE,
            clipping_threshold=_POSITIVE_OR_NONE,
            min_parameter_scale=_POSITIVE,
            momentum_dtype=_MOMENTUM_DTYPE,
        )

    def build(self, logical_axes: Any) -> optax.GradientTransformation:
        """Returns the transformation for parameters with the given logical axes.

        `logical_axes` is a tree like the parameters whose leaves are tuples of axis names.
        """
        check_schedule("Adafactor.learning_rate", self.learning_rate)
        rule = scale_by_palm_adafactor(
            learning_rate=self.learning_rate,
            layer_dims=layer_dims(logical_axes),
            decays=decays(logical_axes),
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
    """optax's AdamW after the same gradient clipping.

    Attributes:
        learning_rate: schedule of the rate.
        beta1: decay rate of the first moment.
        beta2: decay rate of the second moment.
        eps: added to the root of the second moment.
        weight_decay: each step decays weights by this, scaled by the learning rate.
        clip_global_norm: largest global norm of the gradients; None: no clipping.

    Raises:
        UserError: a field is out of range.
    """

    learning_rate: Schedule
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    clip_global_norm: float | None

    def __post_init__(self) -> None:
        _check(
            self,
            beta1=_BETA,
            beta2=_BETA,
            eps=_POSITIVE,
            weight_decay=_NOT_NEGATIVE,
            clip_global_norm=_POSITIVE_OR_NONE,
        )

    def build(self, logical_axes: Any) -> optax.GradientTransformation:
        """Returns the transformation; norm scales that are stored as they act do not decay."""
        check_schedule("AdamW.learning_rate", self.learning_rate)
        rule = optax.chain(
            optax.scale_by_adam(b1=self.beta1, b2=self.beta2, eps=self.eps),
            _weight_decay(self.weight_decay, decays(logical_axes)),
            optax.scale_by_learning_rate(self.learning_rate),
        )
        return _after_clipping(self.clip_global_norm, rule)


def layer_dims(logical_axes: Any) -> Any:
    """Returns the dim that stacks layers, or -1, for each parameter."""
    return _each(
        lambda names: names.index(axes.LAYERS) if axes.LAYERS in names else -1, logical_axes
    )


def decays(logical_axes: Any) -> Any:
    """Returns for each parameter whether weight decay applies.

    It pulls toward 0, which is no neutral value of a norm scale that is stored as it acts.
    """
    return _each(lambda names: axes.NORM not in names, logical_axes)


def _each(function: Callable[[tuple], Any], logical_axes: Any) -> Any:
    return jax.tree.map(function, logical_axes, is_leaf=lambda node: isinstance(node, tuple))


def _weight_decay(rate: float, decays: Any) -> optax.GradientTransformation:
    """Returns optax.add_decayed_weights where `decays` is true.

    Its `mask` would add a level to the state, and stored checkpoints of AdamW have none.
    """

    def update(updates: Any, params: Any) -> Any:
        return jax.tree.map(
            lambda g, p, decays: g + rate * p if decays and rate else g, updates, params, decays
        )

    return optax.stateless(update)


def _check(optimizer: "Adafactor | AdamW", **needs: _Need) -> None:
    for field, (is_met, need) in needs.items():
        value = getattr(optimizer, field)
        if not is_met(value):
            raise UserError(f"{type(optimizer).__name__}.{field}={value!r} must be {need}.")


def _after_clipping(
    max_norm: float | None, rule: optax.GradientTransformation
) -> optax.GradientTransformation:
    if max_norm is None:
        return rule
    return optax.chain(optax.clip_by_global_norm(max_norm), rule)
