"""The TPU kernel computes what plain attention does; here it is interpreted on the CPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palmscale.model.attention import causal_attention, self_attention
from palmscale.model.splash import fits, splash_attention
from palmscale.partition.mesh import MeshSpec, layout, make_mesh
from palmscale.partition.rules import layout_rules

B, L, K = 2, 256, 128
SEGMENT_BL = jnp.array([[1] * 100 + [2] * 156, [1] * 256])


def arrays(heads):
    keys = jax.random.split(jax.random.key(0), 4)
    q_BLHK, g_BLHK = (jax.random.normal(key, (B, L, heads, K)) for key in keys[:2])
    k_BLK, v_BLK = (jax.random.normal(key, (B, L, K)) for key in keys[2:])
    return (q_BLHK, k_BLK, v_BLK), g_BLHK


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("segment_BL", [None, SEGMENT_BL], ids=["whole rows", "packed"])
def test_the_kernel_has_the_value_and_gradients_of_plain_attention(heads, segment_BL):
    qkv, g_BLHK = arrays(heads)
    plain = functools.partial(causal_attention, segment_BL=segment_BL, query_chunk=128)
    kernel = functools.partial(splash_attention, segment_BL=segment_BL, interpret=True)
    results = []
    for attention in (kernel, plain):
        o_BLHK, pull_back = jax.vjp(attention, *qkv)
        results.append((o_BLHK, *pull_back(g_BLHK)))
    for got, want in zip(*results, strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5)


def test_bfloat16_comes_back_as_bfloat16():
    qkv, _ = arrays(1)
    o_BLHK = splash_attention(*(a.astype(jnp.bfloat16) for a in qkv), interpret=True)
    assert o_BLHK.dtype == jnp.bfloat16
    exact = causal_attention(*qkv, segment_BL=None, query_chunk=128)
    assert jnp.abs(o_BLHK - exact).max() < 0.05


@pytest.mark.parametrize(
    ("length", "dim_head", "expected"),
    [(2048, 256, True), (128, 128, True), (2048, 64, False), (200, 256, False), (1, 256, False)],
)
def test_it_takes_whole_blocks_of_whole_registers(length, dim_head, expected):
    assert fits(length, dim_head) == expected


def test_on_a_cpu_attention_is_the_plain_one():
    """The kernel would refuse to compile."""
    qkv, _ = arrays(2)
    want = causal_attention(*qkv, segment_BL=None, query_chunk=64)
    attention = functools.partial(self_attention, segment_BL=None, query_chunk=64)
    np.testing.assert_array_equal(attention(*qkv), want)
    mesh = make_mesh(MeshSpec(), jax.devices()[:1])
    with layout(mesh, layout_rules("2d")):
        np.testing.assert_allclose(jax.jit(attention)(*qkv), want, atol=1e-5)
