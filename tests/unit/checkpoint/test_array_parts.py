"""Arrays in parts: what Orbax wrote is read, and what is written Orbax reads, bit for bit."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_state import flip_bit

from palmscale.checkpoint import array_parts
from palmscale.checkpoint.array_parts import chunk_shape, stored_tensors, write_arrays
from palmscale.checkpoint.arrays import load_arrays, save_arrays
from palmscale.checkpoint.summary import shapes, summarize
from palmscale.errors import CorruptionError
from palmscale.storage.place import place
from palmscale.storage.tensor import Tensor
from palmscale.trees import named_leaves, nested

_HANDLER = "orbax.checkpoint.experimental.v1._src.handlers.pytree_handler.PyTreeHandler"
RANDOM = np.random.default_rng(0)
ARRAYS = {
    "embedding": RANDOM.standard_normal((30, 7), dtype=np.float32),
    "layers/norm": np.zeros((2, 7), np.float32),
    "layers/query": RANDOM.standard_normal((2, 7, 3, 5), dtype=np.float32),
    "scale": np.asarray(jnp.arange(6, dtype=jnp.bfloat16)),
    "step": np.array(3, np.int32),
}


def tensor(array):
    return Tensor(array.shape, array.dtype, lambda part: array[part])


TENSORS = {name: tensor(array) for name, array in ARRAYS.items()}


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(array_parts, "_CHUNK_BYTES", 1 << 7)


@pytest.fixture
def saved(tmp_path):
    """The folder of `params` as Orbax writes it."""
    save_arrays(tmp_path / "1", {"params": nested(jax.tree.map(jnp.asarray, ARRAYS))}).result()
    return tmp_path / "1" / "params"


def test_what_orbax_wrote_is_read_part_by_part(saved):
    found = stored_tensors(saved, shapes(ARRAYS))
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name].read(), array)
    part = found["layers/query"].read(slice(1, 2), slice(2, 6), slice(0, 3), slice(4, 5))
    assert np.array_equal(part, ARRAYS["layers/query"][1:2, 2:6, :, 4:5])


def test_what_is_written_in_chunks_orbax_reads_and_the_manifest_is_that_of_a_save(
    small_chunks, tmp_path
):
    assert write_arrays(tmp_path / "1" / "params", TENSORS) == summarize(nested(ARRAYS))
    (tmp_path / "1" / "_CHECKPOINT_METADATA").write_text(
        json.dumps({"item_handlers": {"params": _HANDLER}})
    )
    wanted = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), nested(ARRAYS))
    loaded = named_leaves(load_arrays(tmp_path / "1", {"params": wanted})["params"])
    for name, array in ARRAYS.items():
        assert loaded[name].dtype == array.dtype and np.array_equal(loaded[name], array)


def test_the_tree_is_described_as_orbax_describes_it(saved, tmp_path):
    write_arrays(tmp_path / "2", TENSORS)
    ours, theirs = (
        json.loads((folder / "_METADATA").read_text()) for folder in (tmp_path / "2", saved)
    )
    assert ours == theirs | {"use_ocdbt": False}


def test_parts_go_to_a_bucket_and_come_back(bucket):
    folder = place(f"{bucket.url}/1/params")
    write_arrays(folder, TENSORS)
    found = stored_tensors(folder, shapes(ARRAYS))
    assert all(np.array_equal(found[name].read(), array) for name, array in ARRAYS.items())


def test_data_that_disappears_is_an_error_and_not_zeros(small_chunks, tmp_path):
    write_arrays(tmp_path / "params", TENSORS)
    found = stored_tensors(tmp_path / "params", shapes(ARRAYS))
    shutil.rmtree(tmp_path / "params" / "embedding" / "c")
    with pytest.raises(CorruptionError, match="the array embedding in .* cannot be read"):
        found["embedding"].read()


def test_an_array_that_is_missing_or_of_another_shape_is_named(tmp_path):
    write_arrays(tmp_path / "params", TENSORS)
    with pytest.raises(CorruptionError, match="the array other in .* cannot be read"):
        stored_tensors(tmp_path / "params", {"other": {"shape": [1], "dtype": "float32"}})
    with pytest.raises(CorruptionError, match=r"is float32\[30, 7\], and the manifest .*\[7, 30\]"):
        stored_tensors(tmp_path / "params", {"embedding": {"shape": [7, 30], "dtype": "float32"}})


def test_a_damaged_index_is_an_error(saved):
    flip_bit(saved / "manifest.ocdbt")
    with pytest.raises(CorruptionError, match="cannot be read"):
        stored_tensors(saved, shapes(ARRAYS))


def test_chunks_hold_one_layer_and_are_nearly_square():
    assert chunk_shape((64, 8192, 32768), 4) == (1, 2048, 4096)
    assert chunk_shape((64, 32768, 8192), 4) == (1, 2048, 4096)
    assert chunk_shape((256_000, 8192), 4) == (4000, 2048)
    assert chunk_shape((64, 8192), 4) == (64, 8192)
    assert chunk_shape((), 4) == ()
