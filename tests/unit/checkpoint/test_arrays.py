"""Trees of arrays to the disk and back, in another sharding."""

import jax
import jax.numpy as jnp
import numpy as np

from palmscale.checkpoint.arrays import load_arrays, save_arrays


def test_arrays_come_back_and_what_has_none_is_left_out(tmp_path):
    tree = {"a": np.arange(6.0, dtype=np.float32).reshape(2, 3), "b": {"c": np.int32(3)}}
    tree = jax.tree.map(jax.numpy.asarray, tree)
    save_arrays(tmp_path / "1", {"params": tree, "optimizer": {}}).result()
    shapes = jax.eval_shape(lambda: tree)
    loaded = load_arrays(tmp_path / "1", {"params": shapes, "optimizer": {}})
    assert loaded.keys() == {"params"}
    for ours, theirs in zip(jax.tree.leaves(loaded["params"]), jax.tree.leaves(tree), strict=True):
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)


def test_a_part_of_a_tree_comes_back_where_it_is_asked_for(tmp_path):
    save_arrays(tmp_path / "1", {"params": {"a": jnp.ones(3), "b": jnp.zeros(2)}}).result()
    wanted = {"params": {"b": jax.ShapeDtypeStruct((2,), jnp.float32)}}
    loaded = load_arrays(tmp_path / "1", wanted, in_part=True)
    assert loaded["params"].keys() == {"b"} and not loaded["params"]["b"].any()
