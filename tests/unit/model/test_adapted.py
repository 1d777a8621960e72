"""A weight with an adapter acts as their sum, and only the adapter has a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palmscale.infer.quantized import quantize_leaf
from palmscale.model.adapted import Adapted
from palmscale.model.attention import contract, dense
from palmscale.model.lora import merged
from palmscale.model.palm import PaLM

D, H, K, F, R = 8, 4, 6, 12, 3
PRODUCTS = {  # name: (spec, input dims, other dims)
    "query": ("bld,dhk->blhk", (D,), (H, K)),
    "key": ("bld,dk->blk", (D,), (K,)),
    "attention_out": ("blhk,hkd->bld", (H, K), (D,)),
    "down": ("blf,fd->bld", (F,), (D,)),
}


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def weight(inputs, others, stack=()):
    summed = tuple(range(-len(inputs) - len(others), -len(others)))
    return Adapted(
        kernel=draw(0, *stack, *inputs, *others),
        down=draw(1, *stack, *inputs, R),
        up=draw(2, *stack, R, *others),
        scale=0.5,
        summed=summed,
    )


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_is_that_with_the_sum_of_kernel_and_adapter(name):
    spec, inputs, others = PRODUCTS[name]
    w, x = weight(inputs, others), draw(3, 2, 5, *inputs)
    expected = jnp.einsum(spec, x, merged(w))
    np.testing.assert_allclose(contract(spec, x, w), expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(dense(w, jnp.float32), merged(w))
    assert contract(spec, x.astype(jnp.bfloat16), w, jnp.bfloat16).dtype == jnp.bfloat16


def test_the_change_of_stacked_layers_is_that_of_each_layer():
    stacked = weight((D,), (H, K), stack=(2,))
    layers = [jax.tree.map(lambda part, n=n: part[n], stacked).change() for n in range(2)]
    np.testing.assert_array_equal(stacked.change(), np.stack(layers))
    assert stacked.stack_dims == 1 and stacked.shape == (2, D, H, K)


def test_the_dims_of_heads_are_merged_before_the_output_product():
    w = weight((H, K), (D,))
    flat = w.reshape(H * K, D)
    assert flat.summed == (-2,) and flat.down.shape == (H * K, R)
    np.testing.assert_array_equal(merged(flat), merged(w).reshape(H * K, D))


def products(jaxpr):
    inner = [p for e in jaxpr.eqns for p in jax.tree.leaves(
        list(e.params.values()), is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr"))
        if hasattr(p, "eqns") or hasattr(p, "jaxpr")]  # fmt: skip
    own = sum(e.primitive.name == "dot_general" for e in jaxpr.eqns)
    return own + sum(products(getattr(j, "jaxpr", j)) for j in inner)


def test_the_gradient_is_that_of_the_adapter_and_none_of_the_kernel_is_computed():
    spec, inputs, others = PRODUCTS["key"]
    w, x = weight(inputs, others), draw(3, 2, 5, *inputs)

    def by_parts(down, up, kernel, x):
        whole = w.replace(kernel=kernel, down=down, up=up)
        return jnp.sum(contract(spec, x, whole) ** 2)

    def by_sum(down, up):
        return jnp.sum(jnp.einsum(spec, x, merged(w.replace(down=down, up=up))) ** 2)

    found = jax.grad(by_parts, (0, 1))(w.down, w.up, w.kernel, x)
    for ours, theirs in zip(found, jax.grad(by_sum, (0, 1))(w.down, w.up), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)
    counts = [
        products(jax.make_jaxpr(jax.grad(by_parts, arguments))(w.down, w.up, w.kernel, x).jaxpr)
        for arguments in ((0, 1, 3), (0, 1, 2, 3))
    ]
    assert counts[1] == counts[0] + 1


def test_a_quantized_kernel_keeps_its_adapter_in_full_precision():
    model = PaLM(num_tokens=8, dim=D, depth=1, heads=H, dim_head=K)
    w = weight((D,), (K,), stack=(1,))
    small = w.replace(kernel=quantize_leaf(model, "layers/key", w.kernel, "int8"))
    layer = jax.tree.map(lambda part: part[0], small)
    x = draw(3, 2, 5, D)
    expected = jnp.einsum("bld,dk->blk", x, merged(w)[0])
    np.testing.assert_allclose(contract("bld,dk->blk", x, layer), expected, atol=0.1)
    cast = small.astype(jnp.bfloat16)
    assert cast.kernel is small.kernel and cast.dtype == cast.up.dtype == jnp.bfloat16
