"""Optimizers as a run binds them: their state lies like the parameters, bad fields are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from palmscale import axes
from palmscale.errors import UserError
from palmscale.optim.build import Adafactor, AdamW, layer_dims
from palmscale.optim.schedules import Constant
from palmscale.partition.shardings import logical_axes, unbox

ADAFACTOR = dict(
    learning_rate=Constant(value=1e-2),
    beta1=0.9,
    beta2_exponent=0.8,
    weight_decay_lr_exponent=2.0,
    clip_global_norm=1.0,
)
ADAMW = dict(
    learning_rate=Constant(value=1e-2),
    beta1=0.9,
    beta2=0.95,
    eps=1e-8,
    weight_decay=0.1,
    clip_global_norm=1.0,
)
NAMES = {"w": (axes.LAYERS, axes.EMBED, axes.MLP), "norm": (axes.NORM,)}
SHAPES = {"w": (2, 4, 6), "norm": (4,)}


@pytest.mark.parametrize("optimizer", [Adafactor(**ADAFACTOR), AdamW(**ADAMW)])
def test_moments_are_shaped_and_named_like_the_parameters(optimizer):
    boxed = {
        name: nn.LogicallyPartitioned(jax.ShapeDtypeStruct(shape, jnp.float32), NAMES[name])
        for name, shape in SHAPES.items()
    }
    state = jax.eval_shape(optimizer.build(NAMES).init, boxed)
    is_tree = lambda node: isinstance(node, dict)  # noqa: E731
    moments = [tree for tree in jax.tree.leaves(state, is_leaf=is_tree) if is_tree(tree)]
    assert len(moments) == 2  # of first and second order
    for moment in moments:
        assert logical_axes(moment) == NAMES
        assert {name: leaf.shape for name, leaf in unbox(moment).items()} == SHAPES
    scalars = [leaf for leaf in jax.tree.leaves(state, is_leaf=is_tree) if not is_tree(leaf)]
    assert all(leaf.shape == () for leaf in scalars)


def test_layer_dims_find_the_stacked_dim_wherever_it_is():
    names = {
        "a": (axes.LAYERS, axes.NORM),
        "b": {"c": (axes.EMBED, axes.LAYERS), "d": (), "e": (None,)},
    }
    assert layer_dims(names) == {"a": 0, "b": {"c": 1, "d": -1, "e": -1}}


@pytest.mark.parametrize("clip", [1.0, None])
def test_adamw_equals_optax(clip):
    random = np.random.default_rng(0)
    draw = lambda: {name: random.normal(size=s).astype("f4") for name, s in SHAPES.items()}  # noqa: E731
    params = theirs = draw()
    ours = AdamW(**ADAMW | {"clip_global_norm": clip}).build(NAMES)
    wanted = optax.adamw(1e-2, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1)
    state, wanted_state = ours.init(params), wanted.init(params)
    for _ in range(3):
        grads = draw()
        norm = np.sqrt(sum(np.sum(g**2) for g in grads.values()))
        clipped = jax.tree.map(lambda g, norm=norm: g * (min(1, clip / norm) if clip else 1), grads)
        updates, state = ours.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        updates, wanted_state = wanted.update(clipped, wanted_state, theirs)
        theirs = optax.apply_updates(theirs, updates)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), params, theirs
    )


@pytest.mark.parametrize(
    "field, value, need",
    [
        ("beta1", 1.0, r"in \[0, 1\)"),
        ("beta1", -0.1, r"in \[0, 1\)"),
        ("beta2_exponent", 0.0, "above 0"),
        ("weight_decay_lr_exponent", 0.0, "above 0, or None"),
        ("clip_global_norm", -1.0, "above 0, or None"),
        ("clipping_threshold", 0.0, "above 0, or None"),
        ("min_parameter_scale", 0.0, "above 0"),
        ("momentum_dtype", "int8", "'float32' or 'bfloat16'"),
    ],
)
def test_bad_fields_of_adafactor_are_the_users_mistake(field, value, need):
    with pytest.raises(UserError, match=f"Adafactor.{field}={value!r} must be {need}"):
        Adafactor(**ADAFACTOR | {field: value})


@pytest.mark.parametrize(
    "field, value, need",
    [
        ("beta1", 1.0, r"in \[0, 1\)"),
        ("beta2", 1.5, r"in \[0, 1\)"),
        ("eps", 0.0, "above 0"),
        ("weight_decay", -0.1, "0 or more"),
        ("clip_global_norm", 0.0, "above 0, or None"),
    ],
)
def test_bad_fields_of_adamw_are_the_users_mistake(field, value, need):
    with pytest.raises(UserError, match=f"AdamW.{field}={value!r} must be {need}"):
        AdamW(**ADAMW | {field: value})


@pytest.mark.parametrize("optimizer", [Adafactor, AdamW])
def test_training_hyperparameters_have_no_default(optimizer):
    with pytest.raises(TypeError, match="learning_rate.*beta1"):
        optimizer()
