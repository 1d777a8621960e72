"""Trees of arrays to the disk and back, in another sharding."""

import jax
import jax.numpy as jnp
import numpy as np

from palmscale.checkpoint.arrays import load_arrays, save_arrays
from palmscale.storage.place import place


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
    loaded = load_arrays(tmp_path / "1", wanted, partial=True)
    assert loaded["params"].keys() == {"b"} and not loaded["params"]["b"].any()


def test_a_store_that_does_not_answer_is_given_up_within_a_minute_or_so():
    from orbax.checkpoint._src.serialization import tensorstore_utils

    retries = tensorstore_utils.get_ts_context(use_ocdbt=True)["gcs_request_retries"].to_json()
    assert retries == {"max_retries": 6, "max_delay": "16s"}


def test_arrays_go_to_a_bucket_and_come_back(bucket, monkeypatch):
    # As EPATH_USE_TF=0 says, which the command line sets before any path is made.
    monkeypatch.setattr("etils.epath.gpath._is_tf_installed", lambda: False)
    path = place(f"{bucket.url}/1")
    save_arrays(path, {"params": {"a": jnp.arange(3.0)}}).result()
    wanted = {"params": {"a": jax.ShapeDtypeStruct((3,), jnp.float32)}}
    assert load_arrays(path, wanted)["params"]["a"].tolist() == [0.0, 1.0, 2.0]
