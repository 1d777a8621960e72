"""What a run takes as its optimizer and its learning rate: palmscale's own, optax's or a user's.

An optimizer is a transformation of optax, or an object whose `build(logical_axes)` returns one: a
frozen dataclass that needs to know which dim of a parameter stacks layers, or which parameters are
norm scales. A schedule is any function of the number of completed updates, as in optax.
"""

import inspect
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from palmscale.errors import UserError


@runtime_checkable
class Schedule(Protocol):
    """A learning rate: a function of the number of completed updates, 0 at the first step."""

    def __call__(self, count: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
        """Returns the rate, a scalar."""


@runtime_checkable
class Optimizer(Protocol):
    """An optimizer that is built for the parameters' logical axes."""

    def build(self, logical_axes: Any) -> optax.GradientTransformation:
        """Returns the transformation.

        `logical_axes` is a tree like the parameters whose leaves are tuples of axis names.
        """


AnyOptimizer = Optimizer | optax.GradientTransformation


def checked_optimizer(optimizer: Any) -> AnyOptimizer:
    """Returns the optimizer itself, or what a function or class without arguments makes.

    Raises:
        UserError: it is no optimizer, and makes none.
    """
    made = optimizer
    if not _is_optimizer(made) and callable(made):
        name = getattr(optimizer, "__qualname__", repr(optimizer))
        try:
            made = optimizer()
        except TypeError as error:
            raise UserError(f"Run.optimizer={name} cannot be called: {error}.") from error
    if not _is_optimizer(made):
        raise UserError(
            f"Run.optimizer={made!r} is no optimizer; expected a transformation of optax, an object"
            " with `build(logical_axes)`, or a function that returns one of them, for example"
            " optax.lion(1e-4)."
        )
    return made


def transformation(
    optimizer: AnyOptimizer, logical_axes: Any
) -> optax.GradientTransformationExtraArgs:
    """Returns the transformation of an optimizer, for parameters with the given logical axes.

    Raises:
        UserError: `build` does not return one.
    """
    made = optimizer
    if hasattr(optimizer, "build"):
        try:
            inspect.signature(optimizer.build).bind(logical_axes)
        except TypeError:
            raise UserError(
                f"{name_of(optimizer)}.build must take one argument, the parameters' logical axes."
            ) from None
        made = optimizer.build(logical_axes)
    if not _is_transformation(made):
        raise UserError(
            f"{name_of(optimizer)}.build returns {made!r}; expected a transformation of optax."
        )
    if isinstance(made, optax.GradientTransformationExtraArgs):
        return made
    return optax.with_extra_args_support(optax.GradientTransformation(made.init, made.update))


def name_of(optimizer: AnyOptimizer) -> str:
    """Returns the name of an optimizer's class; `optax` for a transformation."""
    return "optax" if _is_transformation(optimizer) else type(optimizer).__name__


def check_schedule(field: str, schedule: Any) -> None:
    """Checks that a field holds a schedule, by tracing it.

    Raises:
        UserError: it is none; the message begins with `field`.
    """
    need = "expected a function of the step that returns the learning rate"
    if not callable(schedule):
        raise UserError(f"{field}={schedule!r} is no schedule; {need}.")
    name = getattr(schedule, "__qualname__", type(schedule).__name__)
    try:
        rate = jax.eval_shape(schedule, jax.ShapeDtypeStruct((), jnp.int32))
        is_scalar = rate.shape == ()
    except Exception as error:  # whatever a user's function raises
        raise UserError(
            f"{field}: {name} fails for a step: {type(error).__name__}: {error}; {need}. A function"
            " that makes a schedule must be called."
        ) from error
    if not is_scalar:
        raise UserError(f"{field}: {name} returns an array of shape {rate.shape}; {need}.")


def _is_transformation(value: Any) -> bool:
    # Not by its class alone: optax.MultiSteps has both methods and is none.
    return not inspect.isclass(value) and hasattr(value, "init") and hasattr(value, "update")


def _is_optimizer(value: Any) -> bool:
    return not inspect.isclass(value) and (hasattr(value, "build") or _is_transformation(value))
