"""Optimizers as a run binds them: their state lies like the parameters, bad fields are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from palmscale import PaLM, axes
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
    decayed = {"w": True, "norm": False}
    wanted = optax.adamw(1e-2, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1, mask=decayed)
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


def test_adamws_state_has_the_structure_that_stored_checkpoints_have():
    params = {name: jnp.zeros(shape) for name, shape in SHAPES.items()}
    ours = AdamW(**ADAMW | {"clip_global_norm": None}).build(NAMES).init(params)
    theirs = optax.adamw(lambda count: 1e-2).init(params)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)


@pytest.mark.parametrize("optimizer", [Adafactor(**ADAFACTOR), AdamW(**ADAMW)])
@pytest.mark.parametrize("offset", [1.0, 0.0], ids=["stored minus 1", "stored as it acts"])
def test_weight_decay_leaves_norm_scales_of_1_alone_in_both_dialects(optimizer, offset):
    model = PaLM(dim=8, num_tokens=8, depth=2, heads=2, dim_head=4, norm_scale_offset=offset)
    init = lambda: model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))  # noqa: E731
    boxed = jax.eval_shape(init)["params"]
    start = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, "f4"), unbox(boxed))
    for tree, name in (start["layers"], "norm"), (start, "final_norm"):
        tree[name] = np.full_like(tree[name], 1.0 - offset)
    rule = optimizer.build(logical_axes(boxed))

    @jax.jit
    def decayed(params):
        updates, _ = rule.update(jax.tree.map(jnp.zeros_like, params), rule.init(params), params)
        return optax.apply_updates(params, updates)

    params = decayed(start)
    np.testing.assert_array_equal(params["layers"]["norm"] + offset, 1.0)
    np.testing.assert_array_equal(params["final_norm"] + offset, 1.0)
    assert np.all(params["embedding"] < 0.5)


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
