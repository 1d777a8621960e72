"""Safetensors files: as the package reads and writes them, in parts; what is not whole is told."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from safetensors import safe_open

from palmscale.errors import UserError
from palmscale.interop.safetensors_file import (
    INDEX,
    SINGLE,
    read_metadata,
    read_safetensors,
    write_safetensors,
    write_shards,
)
from palmscale.interop.tensors import of_array

ARRAYS = {
    "b.weight": np.arange(60, dtype=np.float32).reshape(3, 4, 5),
    "a": np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3),
    "half": np.arange(3, dtype=np.float16),
    "scalar": np.array(2.5, np.float64),
    "empty": np.zeros((0, 4), np.int8),
    "mask": np.array([True, False]),
}
TENSORS = {name: of_array(array) for name, array in ARRAYS.items()}


def assert_equal(found):
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].shape == array.shape and found[name].dtype == array.dtype
        assert np.array_equal(found[name].read(), array)


@pytest.fixture
def file(tmp_path):
    write_safetensors(tmp_path / "a.safetensors", TENSORS, metadata={"format": "pt"})
    return tmp_path / "a.safetensors"


def test_what_is_written_the_package_reads(file):
    found = safetensors.numpy.load_file(file)
    assert all(np.array_equal(found[name], array) for name, array in ARRAYS.items())
    with safe_open(file, "np") as opened:
        assert opened.metadata() == {"format": "pt"} == read_metadata(file)


def test_what_the_package_wrote_is_read_in_parts(tmp_path):
    safetensors.numpy.save_file(ARRAYS, tmp_path / SINGLE)
    assert_equal(read_safetensors(tmp_path))
    part = read_safetensors(tmp_path / SINGLE)["b.weight"].read(slice(1, 3), slice(2, 4))
    assert np.array_equal(part, ARRAYS["b.weight"][1:3, 2:4])


def test_shards_have_an_index_and_hold_whole_tensors(tmp_path):
    write_shards(tmp_path, TENSORS, shard_bytes=100)
    index = json.loads((tmp_path / INDEX).read_text())
    total = sum(array.nbytes for array in ARRAYS.values())
    assert index["metadata"] == {"total_size": total}
    assert list(index["weight_map"]) == list(ARRAYS)
    assert index["weight_map"]["b.weight"] == "model-00001-of-00002.safetensors"
    assert set(index["weight_map"].values()) == {p.name for p in tmp_path.glob("*.safetensors")}
    assert_equal(read_safetensors(tmp_path))


def test_a_small_model_is_one_file_without_an_index(tmp_path):
    write_shards(tmp_path, TENSORS)
    assert [path.name for path in tmp_path.iterdir()] == [SINGLE]


@pytest.mark.parametrize("kept", [0, 5, 30, -1])
def test_a_truncated_file_is_told(kept, file):
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UserError, match="is not whole|is not a safetensors file") as error:
        read_safetensors(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"not json", "its header is not JSON"),
        (b"[]", "its header is not an object"),
        (b'{"a": 3}', "its entry of a is malformed"),
        (b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', "malformed"),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', "the size of a"),
        (b'{"a": {"dtype": "F9", "shape": [1], "data_offsets": [0, 4]}}', "dtype F9 of a is not"),
    ],
)
def test_a_malformed_header_is_told(header, said, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"1234")
    with pytest.raises(UserError, match=said):
        read_safetensors(path)


def test_a_file_of_another_kind_or_none_is_told(tmp_path):
    (tmp_path / "zip.safetensors").write_bytes(b"PK\x03\x04" + bytes(range(100, 200)))
    with pytest.raises(UserError, match="is not a safetensors file"):
        read_safetensors(tmp_path / "zip.safetensors")
    with pytest.raises(UserError, match="No such file"):
        read_safetensors(tmp_path)


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("[]", "is not an index"),
        ('{"weight_map": {"a": "../../etc/passwd"}}', "outside its folder"),
        ('{"weight_map": {"other": "model.safetensors"}}', "has no tensor other"),
    ],
)
def test_a_wrong_index_is_told(index, said, tmp_path):
    write_shards(tmp_path, TENSORS)
    (tmp_path / INDEX).write_text(index)
    with pytest.raises(UserError, match=said):
        read_safetensors(tmp_path)


def test_a_file_that_is_cut_while_it_is_read_is_told(file):
    found = read_safetensors(file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="has changed while it is read"):
        found["mask"].read()
