"""A function's description is the same in every process, and tells settings apart."""

import functools
import json

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from palmscale.run.functions import name_of
from palmscale.run.identity import changes, describe


def stable_then_falling(peak=1e-3, total=40):
    parts = [optax.constant_schedule(peak), optax.linear_schedule(peak, 0.0, 10)]
    return optax.join_schedules(parts, [total - 10])


def lion(peak=1e-3, b1=0.9):
    schedule = stable_then_falling(peak)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.lion(schedule, b1=b1))


class Scaled:
    """A schedule with a state of its own, and no dataclass."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, count):
        return self.factor * count

    def rate(self, count):
        return self.factor * count


def described(value):
    """The description, which must be JSON without an address in it."""
    text = json.dumps(describe(value))
    assert "0x" not in text
    return json.loads(text)


@pytest.mark.parametrize(
    "make",
    [
        lion,
        stable_then_falling,
        lambda: optax.adamw(1e-3, mask=lambda params: params),
        lambda: optax.inject_hyperparams(optax.adam)(learning_rate=1e-3),
        lambda: optax.MultiSteps(optax.adam(1e-3), 4).gradient_transformation(),
        lambda: optax.multi_transform({"a": optax.sgd(1e-2)}, lambda params: params),
        lambda: optax.contrib.muon(1e-3),
        lambda: optax.flatten(optax.adam(1e-3)),
        lambda: functools.partial(lion, peak=1.0),
        lambda: Scaled(2.0),
        lambda: Scaled(2.0).rate,
        lambda: jnp.float32,
        lambda: np.float32(0.5),
        lambda: jnp.arange(100),
        lambda: object(),
    ],
)
def test_two_that_are_made_alike_have_one_description(make):
    assert described(make()) == described(make())


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        (lion(), lion(b1=0.8), {"parts.1.parts.0.b1": (0.9, 0.8)}),
        (Scaled(2.0), Scaled(3.0), {"factor": (2.0, 3.0)}),
        (Scaled(2.0).rate, Scaled(3.0).rate, {"self.factor": (2.0, 3.0)}),
        (
            functools.partial(lion, b1=0.8),
            functools.partial(lion, b1=0.7),
            {"b1": (0.8, 0.7)},
        ),
        (lambda count, scale=2: count * scale, lambda count, scale=3: count, {"scale": (2, 3)}),
    ],
    ids=["closure", "object", "method", "partial", "default"],
)
def test_a_setting_that_differs_is_named_with_both_values(old, new, changed):
    assert changes(described(old), described(new)) == changed


def test_the_peak_of_a_schedule_inside_an_optimizer_is_compared():
    found = changes(described(lion(peak=1e-3)), described(lion(peak=2e-3)))
    assert set(found.values()) == {(0.001, 0.002)}
    assert all("learning_rate.schedules" in name for name in found)


def test_large_arrays_are_told_apart_by_their_digest():
    one, other = described(np.arange(100)), described(np.arange(100) + 1)
    assert one["shape"] == [100] and one["sha256"] != other["sha256"]
    assert described(np.arange(3)) == [0, 1, 2]


def test_functions_that_hold_one_another_are_described():
    def even(n):
        return n == 0 or odd(n - 1)

    def odd(n):
        return n != 0 and even(n - 1)

    assert "odd" in described(even)


def test_a_name_leaves_private_modules_out():
    assert name_of(optax.lion) == "optax:lion"
    assert name_of(lion) == f"{__name__}:lion"
