"""Files of flax.serialization are read and written in parts, equal to flax's own."""

import random

import ml_dtypes
import numpy as np
import pytest
from flax import serialization

from palmscale.errors import UserError
from palmscale.interop.msgpack_file import read_arrays, read_msgpack, write_msgpack
from palmscale.interop.tensors import of_array

ARRAYS = {
    "params/a/kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
    "params/a/half": np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3),
    "params/b": np.float16([1, 2]),
    "none": np.zeros((0, 4), np.int8),
    "scalar": np.array(3, np.int64),
}
TREE = {
    "params": {
        "a": {"kernel": ARRAYS["params/a/kernel"], "half": ARRAYS["params/a/half"]},
        "b": ARRAYS["params/b"],
    },
    "none": ARRAYS["none"],
    "scalar": ARRAYS["scalar"],
}


def assert_equal(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name].read(), array)


def test_what_flax_wrote_is_read(tmp_path):
    path = tmp_path / "weights.msgpack"
    path.write_bytes(serialization.to_bytes(TREE))
    assert_equal(read_arrays(path), ARRAYS)


def test_flax_reads_what_is_written(tmp_path):
    path = tmp_path / "weights.msgpack"
    write_msgpack(path, {name: of_array(array) for name, array in ARRAYS.items()})
    restored = serialization.msgpack_restore(path.read_bytes())
    assert_equal(
        {"/".join(n): of_array(a) for n, a in _leaves(restored)},
        ARRAYS,
    )
    assert_equal(read_arrays(path), ARRAYS)


def test_arrays_that_flax_cut_are_put_together(tmp_path, monkeypatch):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 40)
    path = tmp_path / "weights.msgpack"
    array = np.arange(60, dtype=np.float32).reshape(5, 4, 3)
    path.write_bytes(serialization.to_bytes({"cut": array}))
    tensor = read_arrays(path)["cut"]
    np.testing.assert_array_equal(tensor.read(), array)
    np.testing.assert_array_equal(tensor.read(slice(1, 3), slice(2, 4)), array[1:3, 2:4])


def test_what_is_no_array_stays_as_it_is(tmp_path):
    path = tmp_path / "index"
    path.write_bytes(serialization.to_bytes({"version": 3, "of": {"list": [1, "a"], "no": None}}))
    assert read_msgpack(path) == {"version": 3, "of": {"list": {"0": 1, "1": "a"}, "no": None}}


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused_in_one_line(tmp_path, share):
    path = tmp_path / "weights.msgpack"
    whole = serialization.to_bytes(TREE)
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(UserError, match="is not a file of flax.serialization, or is not whole"):
        read_arrays(path)


@pytest.mark.parametrize("content", [b"\x81\xa1a" * 100_000, b"PK\x03\x04 a zip", b"\xdf\xff" * 9])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "weights.msgpack"
    path.write_bytes(content)
    with pytest.raises(UserError) as refused:
        read_arrays(path)
    assert "\n" not in str(refused.value)


def test_changed_files_are_refused_in_one_line_or_read(tmp_path):
    whole = bytearray(serialization.to_bytes(TREE))
    for seed in range(200):
        chance, content = random.Random(seed), bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        path = tmp_path / "changed.msgpack"
        path.write_bytes(content)
        try:
            for tensor in read_arrays(path).values():
                tensor.read()
        except UserError as error:
            assert "\n" not in str(error)


def _leaves(tree, names=()):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*names, name))
        else:
            yield (*names, name), np.asarray(value)
