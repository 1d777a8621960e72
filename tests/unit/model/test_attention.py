"""Attention sees only what it may, rotary positions are relative, matmuls have exact gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import qwix

from palmscale.model import attention
from palmscale.model.attention import attend, causal_attention, contract, rotate

B, L, H, K = 2, 11, 3, 8


@pytest.fixture(scope="module")
def qkv():
    keys = jax.random.split(jax.random.key(0), 3)
    q_BLHK = jax.random.normal(keys[0], (B, L, H, K))
    return q_BLHK, *(jax.random.normal(key, (B, L, K)) for key in keys[1:])


def plain_attention(q_BLHK, k_BLK, v_BLK, visible_BLS):
    """One softmax for each head and query over what it sees, nothing chunked."""
    q, k, v = (np.asarray(a, np.float64) for a in (q_BLHK, k_BLK, v_BLK))
    score_BHLS = np.einsum("blhk,bsk->bhls", q, k) / np.sqrt(K)
    e_BHLS = np.exp(score_BHLS) * np.asarray(visible_BLS)[:, None]
    return np.einsum("bhls,bsk->blhk", e_BHLS / e_BHLS.sum(-1, keepdims=True), v)


@pytest.mark.parametrize("query_chunk", [4, 11, 100])
def test_causal_attention_equals_the_plain_formula_for_any_chunk(qkv, query_chunk):
    out = causal_attention(*qkv, segment_BL=None, query_chunk=query_chunk)
    visible_BLS = np.tril(np.ones((B, L, L)))
    np.testing.assert_allclose(out, plain_attention(*qkv, visible_BLS), atol=2e-6)


def test_segments_see_only_themselves(qkv):
    segment_BL = jnp.array([[1] * 4 + [2] * 7, [1] * 9 + [2] * 2])
    out = causal_attention(*qkv, segment_BL=segment_BL, query_chunk=4)
    same_BLS = segment_BL[:, :, None] == segment_BL[:, None]
    visible_BLS = np.tril(np.ones((L, L))) * same_BLS
    np.testing.assert_allclose(out, plain_attention(*qkv, visible_BLS), atol=2e-6)


def test_a_query_that_sees_nothing_gets_the_mean_and_no_nan(qkv):
    q_BLHK, k_BLK, v_BLK = qkv
    out = attend(q_BLHK, k_BLK, v_BLK, jnp.zeros((B, L, L), bool))
    mean_B11K = v_BLK.mean(axis=1)[:, None, None]
    np.testing.assert_allclose(out, jnp.broadcast_to(mean_B11K, out.shape), atol=1e-6)


def test_attention_keeps_the_dtype_and_sums_in_float32(qkv):
    out = causal_attention(*(a.astype(jnp.bfloat16) for a in qkv), segment_BL=None, query_chunk=4)
    assert out.dtype == jnp.bfloat16
    exact = causal_attention(*qkv, segment_BL=None, query_chunk=4)
    assert jnp.abs(out - exact).max() < 0.03


def test_xpos_multiplies_the_products_by_a_decay_of_the_distance_at_any_origin(qkv):
    q_BLHK, k_BLK, _ = qkv
    half = K // 2
    zeta = (np.arange(half) / half + 0.4) / 1.4
    for origin in (0, 8_192, 32_000):
        position_BL = jnp.broadcast_to(origin + 40 * jnp.arange(L), (B, L))
        rope = [rotate(x, position_BL) for x in (q_BLHK, k_BLK[:, :, None])]
        xpos = [
            rotate(x, position_BL, xpos=power)
            for x, power in ((q_BLHK, 1), (k_BLK[:, :, None], -1))
        ]

        def pair_products(q_BLHK, k_BLK):
            product = np.einsum("blhk,bsk->blshk", np.float64(q_BLHK), np.float64(k_BLK[:, :, 0]))
            return product[..., :half] + product[..., half:]

        distance_LS = 40 * (np.arange(L)[:, None] - np.arange(L))
        decay = zeta ** (distance_LS[:, :, None, None] / 512)
        np.testing.assert_allclose(
            pair_products(*xpos), pair_products(*rope) * decay, rtol=1e-4, atol=1e-4
        )


def test_rotation_keeps_position_0_and_lengths(qkv):
    position_BL = jnp.broadcast_to(jnp.arange(L), (B, L))
    turned = rotate(qkv[0], position_BL)
    np.testing.assert_array_equal(turned[:, 0], qkv[0][:, 0])
    norms = [jnp.linalg.norm(a, axis=-1) for a in (turned, qkv[0])]
    np.testing.assert_allclose(*norms, rtol=1e-5)


def test_rotated_products_depend_on_the_distance_alone(qkv):
    q_11HK, k_11HK = qkv[0][:1, :1], qkv[0][1:, 1:2]

    def product_H(q_position, k_position):
        q = rotate(q_11HK, jnp.array([[q_position]]))
        return jnp.sum(q * rotate(k_11HK, jnp.array([[k_position]])), axis=-1)

    np.testing.assert_allclose(product_H(9, 4), product_H(105, 100), atol=1e-4)
    assert jnp.abs(product_H(9, 4) - product_H(9, 5)).max() > 1e-2


def test_rotation_turns_the_halves_of_a_head_not_neighbours():
    x_111K = jnp.zeros((1, 1, 1, K)).at[..., 1].set(1.0)
    angle = 3 * 10_000 ** (-2 / K)
    turned_K = rotate(x_111K, jnp.array([[3]]))[0, 0, 0]
    expected_K = np.zeros(K)
    expected_K[1], expected_K[1 + K // 2] = np.cos(angle), np.sin(angle)
    np.testing.assert_allclose(turned_K, expected_K, atol=1e-6)


def test_far_positions_are_exact_in_bfloat16_too():
    """bfloat16 cannot tell 256 from 257; the angles must not be computed in it."""
    x = jnp.ones((1, 1, 1, K), jnp.bfloat16)
    turned = [rotate(x, jnp.array([[p]])).astype(jnp.float32) for p in (256, 257)]
    assert jnp.abs(turned[0] - turned[1]).max() > 0.3


@pytest.mark.parametrize(
    ("spec", "x_shape", "w_shape"),
    [
        ("bld,dhk->blhk", (2, 5, 4), (4, 3, 6)),
        ("blhk,hkd->bld", (2, 5, 3, 6), (3, 6, 4)),
        ("bld,vd->blv", (2, 5, 4), (7, 4)),
        ("blhk,bsk->blhs", (2, 5, 3, 6), (2, 8, 6)),
    ],
)
def test_contract_has_the_value_and_gradients_of_einsum(spec, x_shape, w_shape):
    keys = jax.random.split(jax.random.key(1), 3)
    x, w = jax.random.normal(keys[0], x_shape), jax.random.normal(keys[1], w_shape)
    want, pull_want = jax.vjp(lambda x, w: jnp.einsum(spec, x, w), x, w)
    g = jax.random.normal(keys[2], want.shape)
    got, pull_got = jax.vjp(lambda x, w: contract(spec, x, w), x, w)
    for a, b in zip((got, *pull_got(g)), (want, *pull_want(g)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("qtype", "scales"),
    [
        (jnp.int8, {"channelwise_axes": (1, 2)}),
        (jnp.float8_e4m3fn, {"channelwise_axes": (1, 2)}),
        (jnp.int4, {"channelwise_axes": (1, 2), "tiled_axes": {0: 4}}),
    ],
    ids=["int8", "fp8", "int4"],
)
def test_contract_of_a_quantized_weight_is_qwix_s_product(qtype, scales, dtype):
    x_BLD = jax.random.normal(jax.random.key(0), (2, 3, 16), dtype)
    w_DHK = qwix.quantize(jax.random.normal(jax.random.key(1), (16, 2, 8)), qtype, **scales)
    spec = "bld,dhk->blhk"
    found, wanted = contract(spec, x_BLD, w_DHK), qwix.einsum(spec, x_BLD, w_DHK.astype(dtype))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted.astype("f4"), atol=1e-5 if dtype == "float32" else 0.1)


def test_contract_in_bfloat16_gives_float32_and_each_input_a_gradient_of_its_dtype():
    x_BLD = jax.random.normal(jax.random.key(2), (2, 5, 64)).astype(jnp.bfloat16)
    w_DF = jax.random.normal(jax.random.key(3), (64, 8))
    y_BLF, pull = jax.vjp(lambda x, w: contract("bld,df->blf", x, w), x_BLD, w_DF)
    dx_BLD, dw_DF = pull(jnp.ones_like(y_BLF))
    assert (y_BLF.dtype, dx_BLD.dtype, dw_DF.dtype) == (jnp.float32, jnp.bfloat16, jnp.float32)
    w16_DF = w_DF.astype(jnp.bfloat16).astype(jnp.float32)
    exact = jnp.einsum("bld,df->blf", x_BLD.astype(jnp.float32), w16_DF)
    # Inputs are rounded to bfloat16, the sum of 64 products is not.
    np.testing.assert_allclose(y_BLF, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("query_chunk", [1, 4, 11])
def test_queries_meet_a_cache_in_chunks_as_they_do_at_once(qkv, query_chunk, monkeypatch):
    monkeypatch.setattr(attention, "_MOST_SCORES", 0)
    position_BL = jnp.broadcast_to(jnp.arange(L), (B, L))
    out = attention.cached_attention(*qkv, position_BL, query_chunk=query_chunk)
    visible_BLS = np.tril(np.ones((B, L, L)))
    np.testing.assert_allclose(out, plain_attention(*qkv, visible_BLS), atol=2e-6)
