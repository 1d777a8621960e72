"""A file's suffix says how it is read and written."""

import numpy as np
import pytest

from palmscale.errors import UserError
from palmscale.interop.tensor_files import read_tensors, write_tensors
from palmscale.interop.tensors import of_array

ARRAYS = {"a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float16([1, 2])}


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".msgpack", ".NPZ"])
def test_what_is_written_is_read(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    write_tensors(path, {name: of_array(array) for name, array in ARRAYS.items()})
    found = read_tensors(path)
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name].read(), array)


def test_a_folder_has_safetensors(tmp_path):
    write_tensors(tmp_path / "model.safetensors", {"b": of_array(ARRAYS["b"])})
    assert list(read_tensors(tmp_path)) == ["b"]


@pytest.mark.parametrize("name", ["weights", "weights.h5"])
def test_an_unknown_suffix_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=f"{name} has no suffix of a file of tensors; expected .sa"):
        read_tensors(tmp_path / name)
    with pytest.raises(UserError, match="no suffix"):
        write_tensors(tmp_path / name, {})


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".msgpack", ".eqx"])
def test_a_missing_file_is_one_line(tmp_path, suffix):
    with pytest.raises(UserError) as refused:
        read_tensors(tmp_path / f"weights{suffix}")
    assert "\n" not in str(refused.value)
