import jax
import jax.numpy as jnp

from palmscale.plan.program.saved_activations import saved_arrays

W = jax.ShapeDtypeStruct((3, 64, 64), jnp.float32)
X = jax.ShapeDtypeStruct((8192, 64), jnp.float32)


def saved(layer):
    def loss(w, x):
        return jnp.sum(jax.lax.scan(lambda carry, one: (layer(carry, one), None), x, w)[0])

    return saved_arrays(jax.jit(jax.grad(loss)).trace(W, X), 3, {W.shape})


def layer(x, w):
    return jnp.sin(jnp.sin(x @ w))


def test_each_layers_intermediate_values_are_found():
    stacks = saved(layer)
    assert stacks and {shape for _, shape, _ in stacks} == {(3, 8192, 64)}
    assert all(size == 3 * 8192 * 64 * 4 for _, _, size in stacks)


def test_rematerialized_there_are_only_the_layers_inputs():
    assert saved(jax.checkpoint(layer)) == [("float32", (3, 8192, 64), 3 * 8192 * 64 * 4)]
