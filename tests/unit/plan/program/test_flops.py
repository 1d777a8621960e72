import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from palmscale.plan.program.flops import matmul_flops

X = jax.ShapeDtypeStruct((8, 16), jnp.float32)
W = jax.ShapeDtypeStruct((16, 16), jnp.float32)
ONE = 2 * 8 * 16 * 16


def flops(function, *arguments):
    return matmul_flops(jax.jit(function).trace(*arguments))


def test_a_matmul_is_two_operations_for_each_product():
    assert flops(lambda x, w: x @ w, X, W) == ONE


def test_a_loop_counts_as_often_as_it_runs():
    def loop(x, w):
        return jax.lax.scan(lambda carry, _: (carry @ w, None), x, length=5)[0]

    assert flops(loop, X, W) == 5 * ONE


def test_what_is_recomputed_counts_again():
    def loss(w, x):
        return jnp.sum(jnp.sin(jnp.sin(x @ w) @ w))

    plain = flops(jax.grad(loss), W, X)
    assert flops(jax.grad(jax.checkpoint(loss)), W, X) > plain


def test_of_a_conditional_the_largest_branch_counts():
    def choose(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: (x @ w) @ w)

    assert flops(choose, X, W) == 2 * ONE


def test_under_shard_map_every_device_counts():
    mesh = jax.make_mesh((1,), ("a",))
    mapped = jax.shard_map(lambda x, w: x @ w, mesh=mesh, in_specs=(P(), P()), out_specs=P())
    assert flops(mapped, X, W) == ONE
