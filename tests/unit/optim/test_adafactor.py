"""PaLM's Adafactor against a transcription of T5X's rule in NumPy, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palmscale import axes
from palmscale.optim.adafactor import rms_per_layer
from palmscale.optim.build import Adafactor
from palmscale.optim.schedules import Constant, InverseSqrt

FIELDS = dict(
    learning_rate=InverseSqrt(peak=1e-2, hold_steps=3),
    beta1=0.9,
    beta2_exponent=0.8,
    weight_decay_lr_exponent=2.0,
    clip_global_norm=1.0,
)
NAMES = {"w": (axes.EMBED, axes.MLP), "bias": (axes.MLP,), "norm": (axes.CENTERED_NORM,)}
SHAPES = {"w": (4, 6), "bias": (6,), "norm": (5,)}


def draw(seed, size=1.0):
    random = np.random.default_rng(seed)
    return {name: size * random.normal(size=shape) for name, shape in SHAPES.items()}


def transcription(
    params, grads_of_steps, *, clip=1.0, threshold=1.0, decay_exponent=2.0, stored=lambda m: m
):
    """T5X's rule with PaLM's settings, step by step, each parameter by itself.

    `stored` is what the next step reads of the momentum.
    """
    params = {name: np.float64(value) for name, value in params.items()}
    m = {name: np.zeros_like(value) for name, value in params.items()}
    v = {name: np.zeros_like(value) for name, value in params.items()}
    for step, grads in enumerate(grads_of_steps):
        lr = 1e-2 * np.sqrt(3 / max(step + 1, 3))
        beta2 = 1 - (step + 1) ** -0.8
        norm = np.sqrt(sum(np.sum(g**2) for g in grads.values()))
        for name, param in params.items():
            g = grads[name] * (1 if clip is None else min(1, clip / norm))
            v[name] = beta2 * v[name] + (1 - beta2) * (g**2 + 1e-30)
            y = g / np.sqrt(v[name])
            if threshold is not None:
                y = y / max(1, np.sqrt(np.mean(y**2)) / threshold)
            scale = lr * max(np.sqrt(np.mean(param**2)), 1e-3)
            new_m = 0.9 * m[name] + 0.1 * (scale * y)
            decay = 0 if decay_exponent is None else lr**decay_exponent
            params[name] = (1 - decay) * param - new_m
            m[name] = stored(new_m)
    return params, m, v


def trained(optimizer, params, grads_of_steps, names=NAMES):
    transformation = optimizer.build(names)
    as_float32 = lambda tree: jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)  # noqa: E731
    params = as_float32(params)
    state = transformation.init(params)

    @jax.jit
    def step(params, state, grads):
        updates, state = transformation.update(grads, state, params)
        return jax.tree.map(jnp.add, params, updates), state

    for grads in grads_of_steps:
        params, state = step(params, state, as_float32(grads))
    return params, state


@pytest.fixture(scope="module")
def start():
    return draw(0) | {"norm": np.zeros(SHAPES["norm"])}  # norm scales are stored centered at zero


# Norms of about 6 and 0.6: clipped at 1, and not.
@pytest.mark.parametrize("size", [1.0, 0.1])
@pytest.mark.parametrize(
    "changes, settings",
    [
        ({}, {}),
        ({"clip_global_norm": None}, {"clip": None}),
        ({"clipping_threshold": None}, {"threshold": None}),
        ({"weight_decay_lr_exponent": None}, {"decay_exponent": None}),
    ],
)
def test_five_steps_equal_the_transcription_in_float64(start, size, changes, settings):
    # Growing gradients make RMS(u) exceed the clipping threshold.
    grads = [draw(step + 1, size * (1 + step)) for step in range(5)]
    params, state = trained(Adafactor(**FIELDS | changes), start, grads)
    want, want_m, want_v = transcription(start, grads, **settings)
    ours = state if "clip_global_norm" in changes else state[1]
    for name in SHAPES:
        np.testing.assert_allclose(params[name], want[name], rtol=2e-6, atol=1e-8, err_msg=name)
        np.testing.assert_allclose(ours.m[name], want_m[name], rtol=2e-5, atol=1e-9, err_msg=name)
        np.testing.assert_allclose(ours.v[name], want_v[name], rtol=2e-5, err_msg=name)
    assert ours.count == 5


def test_the_first_step_forgets_the_second_moments_start(start):
    """beta2 is 0 at k = 1, so u is the gradient's sign and there is no bias to correct."""
    grads = draw(1, 0.01)
    _, (_, state) = trained(Adafactor(**FIELDS), start, [grads])
    for name, g in grads.items():
        np.testing.assert_allclose(state.v[name], g**2, rtol=1e-5)
        scale = 1e-2 * max(np.sqrt(np.mean(start[name] ** 2)), 1e-3)
        np.testing.assert_allclose(state.m[name], 0.1 * scale * np.sign(g), rtol=1e-5)


def test_a_zero_scale_moves_by_the_floor_of_the_parameter_scale(start):
    params, _ = trained(Adafactor(**FIELDS), start, [draw(1)])
    np.testing.assert_allclose(np.abs(params["norm"]), 0.1 * 1e-2 * 1e-3, rtol=1e-5)
    params, _ = trained(Adafactor(**FIELDS, min_parameter_scale=1.0), start, [draw(1)])
    np.testing.assert_allclose(np.abs(params["norm"]), 0.1 * 1e-2, rtol=1e-5)


@pytest.mark.parametrize("layer_dim", [0, 1])
def test_stacked_layers_train_exactly_as_separate_parameters_do(layer_dim):
    """T5X took one RMS over all layers of a scanned stack, so that they trained unlike."""
    random, layers = np.random.default_rng(0), 3
    sizes = np.array([0.1, 1.0, 10.0])  # unlike layers, so that a shared RMS would show
    draw_layers = lambda size: size[:, None, None] * random.normal(size=(layers, 4, 6))  # noqa: E731
    w, gradients = draw_layers(sizes), [draw_layers(sizes**-1) for _ in range(5)]
    names = [axes.EMBED, axes.MLP]
    names.insert(layer_dim, axes.LAYERS)
    optimizer = Adafactor(**FIELDS | {"clip_global_norm": None})
    stack = lambda a: {"w": np.moveaxis(a, 0, layer_dim)}  # noqa: E731
    stacked, _ = trained(optimizer, stack(w), map(stack, gradients), {"w": tuple(names)})
    separate_names = {str(n): (axes.EMBED, axes.MLP) for n in range(layers)}
    apart = lambda a: {str(n): a[n] for n in range(layers)}  # noqa: E731
    separate, _ = trained(optimizer, apart(w), map(apart, gradients), separate_names)
    for n, layer in enumerate(np.moveaxis(stacked["w"], layer_dim, 0)):
        if layer_dim == 0:  # as every module here stacks; elsewhere the sum's order may differ
            np.testing.assert_array_equal(layer, separate[str(n)])
        np.testing.assert_allclose(layer, separate[str(n)], rtol=1e-6)


def test_rms_is_taken_within_a_layer_and_of_everything_without_layers():
    x = np.array([[3.0, 4.0], [6.0, 8.0]])
    np.testing.assert_allclose(rms_per_layer(x, 0), [[np.sqrt(12.5)], [np.sqrt(50)]])
    np.testing.assert_allclose(rms_per_layer(x, -1), [[np.sqrt(31.25)]])
    np.testing.assert_allclose(rms_per_layer(np.float32(-2.0), -1), 2.0)


def test_momentum_in_bfloat16_is_rounded_only_where_it_is_stored_as_in_t5x(start):
    """Over 50 steps; applying the rounded momentum instead is off by a hundred times as much."""
    grads = [draw(step + 1) for step in range(50)]
    params, (_, state) = trained(Adafactor(**FIELDS, momentum_dtype="bfloat16"), start, grads)
    stored = lambda m: np.float64(m.astype(jnp.bfloat16))  # noqa: E731
    want, want_m, _ = transcription(start, grads, stored=stored)
    exact, _, _ = transcription(start, grads)
    for name in SHAPES:
        assert state.m[name].dtype == jnp.bfloat16 and state.v[name].dtype == jnp.float32
        assert params[name].dtype == jnp.float32
        moved = np.abs(want[name] - start[name]).max()
        # A value near a tie may be stored rounded to the other side.
        np.testing.assert_allclose(params[name], want[name], rtol=0, atol=1e-3 * moved)
        np.testing.assert_allclose(
            np.float64(state.m[name]),
            want_m[name],
            rtol=2**-7,
            atol=1e-3 * np.abs(want_m[name]).max(),
        )
        np.testing.assert_allclose(params[name], exact[name], rtol=0, atol=0.01 * moved)


def test_the_first_step_with_momentum_in_bfloat16_is_that_with_float32(start):
    by_dtype = {}
    for dtype in ("float32", "bfloat16"):
        by_dtype[dtype], _ = trained(Adafactor(**FIELDS, momentum_dtype=dtype), start, [draw(1)])
    for name in SHAPES:
        np.testing.assert_array_equal(by_dtype["bfloat16"][name], by_dtype["float32"][name])


def test_decay_is_the_rate_squared_whatever_the_parameters_scale():
    still = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    optimizer = Adafactor(**FIELDS | {"learning_rate": Constant(value=0.1)})
    params, _ = trained(optimizer, draw(0), [still])
    for name, before in draw(0).items():
        np.testing.assert_allclose(params[name], (1 - 0.1**2) * before, rtol=1e-6)
