"""A lookup gives the tokens' rows; its gradient is summed in float32, whatever the rows' dtype."""

import jax
import jax.numpy as jnp
import numpy as np

from palmscale.model.embedding import logits_table, lookup

V, D = 7, 4
TOKENS_BL = jnp.array([[0, 3, 3], [6, 3, 1]])


def table():
    return jax.random.normal(jax.random.key(0), (V, D))


def test_rows_come_in_the_dtype_asked_for():
    for dtype in (jnp.float32, jnp.bfloat16):
        x_BLD = lookup(table(), TOKENS_BL, dtype)
        assert x_BLD.dtype == dtype
        np.testing.assert_array_equal(x_BLD, table()[TOKENS_BL].astype(dtype))


def test_the_gradient_is_that_of_indexing():
    g_BLD = jax.random.normal(jax.random.key(1), (*TOKENS_BL.shape, D))
    _, pull_back = jax.vjp(lambda t: lookup(t, TOKENS_BL, jnp.float32), table())
    _, pull_want = jax.vjp(lambda t: t[TOKENS_BL], table())
    np.testing.assert_allclose(pull_back(g_BLD)[0], pull_want(g_BLD)[0], rtol=1e-6)


def test_a_frequent_tokens_gradient_is_not_lost_in_bfloat16():
    """bfloat16 counts to 256 and stays there."""
    tokens_BL = jnp.zeros((1, 1000), jnp.int32)
    _, pull_back = jax.vjp(lambda t: lookup(t, tokens_BL, jnp.bfloat16), table())
    (dtable_VD,) = pull_back(jnp.ones((1, 1000, D), jnp.bfloat16))
    assert dtable_VD.dtype == jnp.float32
    np.testing.assert_array_equal(dtable_VD[:2], [[1000] * D, [0] * D])


def test_the_logits_table_is_the_table():
    np.testing.assert_array_equal(logits_table(table(), jnp.bfloat16), table().astype("bfloat16"))
