"""Any transformation of optax is an optimizer, and any function of the step a schedule."""

import dataclasses
import functools

import jax.numpy as jnp
import optax
import pytest

from palmscale.errors import UserError
from palmscale.optim.build import AdamW
from palmscale.optim.interface import check_schedule, checked_optimizer, name_of, transformation
from palmscale.optim.schedules import Constant

NAMES = {"w": ("embed", "mlp")}


@dataclasses.dataclass(frozen=True)
class Lion:
    learning_rate: float = 1e-4

    def build(self, logical_axes):
        assert logical_axes == NAMES
        return optax.lion(self.learning_rate)


@dataclasses.dataclass(frozen=True)
class Deaf:
    def build(self):
        return optax.sgd(1.0)


@dataclasses.dataclass(frozen=True)
class Empty:
    def build(self, logical_axes):
        return None


@pytest.mark.parametrize(
    "optimizer",
    [
        Lion(),
        Lion,
        optax.lion(1e-4),
        functools.partial(optax.lion, 1e-4),
        lambda: optax.chain(optax.clip(1.0), optax.lion(1e-4)),
        optax.identity,
        optax.MultiSteps(optax.lion(1e-4), 2),
    ],
)
def test_an_optimizer_is_an_object_with_build_a_transformation_or_what_makes_one(optimizer):
    checked = checked_optimizer(optimizer)
    assert checked_optimizer(checked) is checked
    made = transformation(checked, NAMES)
    assert isinstance(made, optax.GradientTransformationExtraArgs)
    state = made.init({"w": 1.0})
    made.update({"w": 1.0}, state, {"w": 1.0}, value=0.0)  # which it may use


@pytest.mark.parametrize(
    ("optimizer", "said"),
    [
        (optax.lion, r"Run.optimizer=lion cannot be called: .*learning_rate"),
        (3, r"Run.optimizer=3 is no optimizer; expected a transformation of optax"),
        (lambda: 3, r"Run.optimizer=3 is no optimizer; .* for example optax.lion"),
    ],
)
def test_anything_else_is_the_users_mistake(optimizer, said):
    with pytest.raises(UserError, match=said):
        checked_optimizer(optimizer)


@pytest.mark.parametrize(
    ("optimizer", "said"),
    [
        (Deaf(), "Deaf.build must take one argument, the parameters' logical axes"),
        (Empty(), "Empty.build returns None; expected a transformation of optax"),
    ],
)
def test_build_takes_the_axes_and_returns_a_transformation(optimizer, said):
    with pytest.raises(UserError, match=said):
        transformation(optimizer, NAMES)


@pytest.mark.parametrize(
    "schedule", [Constant(value=1.0), optax.constant_schedule(1.0), lambda count: 0.1 * count]
)
def test_a_schedule_is_any_function_of_the_step(schedule):
    check_schedule("AdamW.learning_rate", schedule)


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        (1e-3, "AdamW.learning_rate=0.001 is no schedule; expected a function of the step"),
        (optax.constant_schedule, "constant_schedule fails for a step: .* must be called"),
        (lambda: 1.0, "fails for a step: TypeError"),
        (lambda count: [count], "fails for a step"),
        (lambda count: jnp.zeros(3), r"returns an array of shape \(3,\)"),
    ],
)
def test_what_gives_no_rate_is_named_before_the_first_step(schedule, said):
    adamw = dict(beta1=0.9, beta2=0.9, eps=1e-8, weight_decay=0.0, clip_global_norm=None)
    with pytest.raises(UserError, match=said):
        AdamW(learning_rate=schedule, **adamw).build(NAMES)


def test_a_transformation_has_no_name_of_its_own():
    assert name_of(Lion()) == "Lion" and name_of(optax.lion(1.0)) == "optax"
