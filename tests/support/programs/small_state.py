"""A state of two arrays and its optimizer's, a function of the step: saved, restored, compared."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from palmscale.checkpoint.policy import KeepPolicy

KEEP_ALL = KeepPolicy(latest=100)


def params_at(step):
    key = jax.random.key(step)
    return {"embed": jax.random.normal(key, (8, 4)), "scale": jnp.ones((4,), jnp.bfloat16) * step}


def state_at(step):
    return optax.adamw(1e-3).init(params_at(step))


def saved_at(step):
    return dict(
        params=params_at(step),
        optimizer_state=state_at(step),
        meta={"step": step},
        cursor={"row": step * 10},
        metrics={"eval_loss": 9 - step / 10},
    )


def save(store, step, **more):
    store.save(step, **saved_at(step) | more)


def save_last(store, step):
    store.save_last(step, **saved_at(step))


def abstract(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def restore(store, step=None, **more):
    arguments = dict(
        abstract_params=abstract(params_at(0)), abstract_optimizer_state=abstract(state_at(0))
    )
    return store.restore(step, **arguments | more)


def assert_trees_equal(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])
