"""Chunked cross entropy equals the plain one, in value and gradient, without whole logits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palmscale.model.loss import token_loss

B, L, D, V = 2, 12, 8, 50
Z = 0.01  # far above the paper's 1e-4, so that its gradient weighs


@pytest.fixture(scope="module")
def inputs():
    keys = jax.random.split(jax.random.key(0), 4)
    x_BLD = jax.random.normal(keys[0], (B, L, D))
    table_VD = jax.random.normal(keys[1], (V, D))
    target_BL = jax.random.randint(keys[2], (B, L), 0, V)
    weight_BL = jax.random.uniform(keys[3], (B, L)).at[0, 3].set(0.0)
    return x_BLD, table_VD, target_BL, weight_BL


def plain(x_BLD, table_VD, target_BL, weight_BL):
    logits_BLV = jnp.einsum("bld,vd->blv", x_BLD, table_VD)
    log_z_BL = jax.nn.logsumexp(logits_BLV, -1)
    picked_BL = jnp.take_along_axis(logits_BLV, target_BL[..., None], -1)[..., 0]
    return jnp.sum(weight_BL * (log_z_BL - picked_BL + Z * log_z_BL**2))


def chunked(x_BLD, table_VD, target_BL, weight_BL, chunk_length):
    unembed = lambda x: jnp.einsum("bld,vd->blv", x, table_VD)  # noqa: E731
    return token_loss(unembed, x_BLD, target_BL, weight_BL, z_loss=Z, chunk_length=chunk_length)


@pytest.mark.parametrize("chunk_length", [1, 4, 5, 12, 100])
def test_chunks_of_any_length_give_the_plain_loss_and_gradients(inputs, chunk_length):
    want, want_grads = jax.value_and_grad(plain, argnums=(0, 1))(*inputs)
    objective = lambda *a: chunked(*a, chunk_length).objective  # noqa: E731
    got, got_grads = jax.jit(jax.value_and_grad(objective, argnums=(0, 1)))(*inputs)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    for g, w in zip(got_grads, want_grads, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(chunked(*inputs, chunk_length).objective, want, rtol=1e-6)


def test_the_parts_add_up_and_correct_counts_weighted_hits(inputs):
    x_BLD, table_VD, target_BL, weight_BL = inputs
    loss = chunked(*inputs, 4)
    np.testing.assert_allclose(loss.cross_entropy + loss.z_loss, loss.objective, rtol=1e-6)
    hit_BL = jnp.argmax(x_BLD @ table_VD.T, -1) == target_BL
    np.testing.assert_allclose(loss.correct, jnp.sum(weight_BL * hit_BL), rtol=1e-6)


def test_whole_logits_never_exist(inputs):
    step = jax.jit(jax.grad(lambda *a: chunked(*a, 4).objective, argnums=(0, 1)))
    text = step.lower(*inputs).as_text()
    assert f"{B}x4x{V}xf32" in text
    assert f"{B}x{L}x{V}x" not in text and f"{L // 4}x{B}x4x{V}x" not in text


def test_gradient_scales_with_what_comes_back(inputs):
    grad = jax.grad(lambda *a: chunked(*a, 4).objective, argnums=1)(*inputs)
    tripled = jax.grad(lambda *a: 3.0 * chunked(*a, 4).objective, argnums=1)(*inputs)
    np.testing.assert_allclose(tripled, 3.0 * grad, rtol=1e-6)


def test_gradients_reach_only_parameters_that_unembed_reads(inputs):
    x_BLD, table_VD, target_BL, weight_BL = inputs

    def objective(params):
        unembed = lambda x: jnp.einsum("bld,vd->blv", x, params["table"])  # noqa: E731
        return token_loss(
            unembed, x_BLD * params["gain"], target_BL, weight_BL, z_loss=Z, chunk_length=4
        ).objective

    params = {"table": table_VD, "gain": jnp.ones(()), "unused": jnp.ones((1000,))}
    grads = jax.grad(objective)(params)
    assert not grads["unused"].any() and grads["gain"] != 0
    text = str(jax.make_jaxpr(functools.partial(jax.grad(objective)))(params))
    assert "f32[1000] = add_any" not in text
