"""Checkpoints of T5X are read as T5X wrote them, and damaged ones are refused in one line."""

import ml_dtypes
import numpy as np
import pytest
import tensorstore as ts
from flax import serialization

from palmscale.errors import CorruptionError, UserError
from palmscale.interop.t5x_files import read_t5x

KERNEL = np.arange(24, dtype=np.float32).reshape(4, 6) + 1
SMALL = np.arange(3, dtype=np.int32)


def spec(path, dtype="<f4"):
    return {
        "driver": "zarr",
        "kvstore": {"driver": "file", "path": path},
        "metadata": {
            "shape": [4, 6],
            "chunks": [2, 6],
            "dtype": dtype,
            "compressor": {"id": "gzip"},
        },
    }


def write_array(folder, path, values, dtype="<f4"):
    absolute = spec(f"{folder}/{path}/", dtype)
    ts.open(absolute, create=True).result().write(values).result()


@pytest.fixture
def checkpoint(tmp_path):
    write_array(tmp_path, "target.kernel", KERNEL)
    write_array(tmp_path, "target.half", KERNEL.astype(ml_dtypes.bfloat16), "bfloat16")
    write_array(tmp_path, "target.norm", np.zeros((4, 6), np.float32))
    target = {
        "kernel": {"kernel": spec("target.kernel/")},
        "half": {"kernel": {**spec("target.half"), "dtype": "bfloat16"}},
        "orbax": {"kernel": "PLACEHOLDER://target.kernel"},
        "norm": {"scale": spec("target.norm")},
        "small": SMALL,
    }
    contents = {"version": 3, "optimizer": {"target": target, "state": {"step": 7}}}
    (tmp_path / "checkpoint").write_bytes(serialization.to_bytes(contents))
    return tmp_path


def refusal(path):
    with pytest.raises(UserError) as refused:
        for tensor in read_t5x(path).values():
            tensor.read()
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_arrays_are_read_beside_the_index_and_in_it(checkpoint):
    found = read_t5x(checkpoint)
    assert list(found) == [
        f"optimizer/target/{name}"
        for name in ("kernel/kernel", "half/kernel", "orbax/kernel", "norm/scale", "small")
    ]
    for name in ("kernel", "half", "orbax"):
        np.testing.assert_array_equal(found[f"optimizer/target/{name}/kernel"].read(), KERNEL)
    assert found["optimizer/target/half/kernel"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found["optimizer/target/small"].read(), SMALL)
    part = found["optimizer/target/kernel/kernel"].read(slice(1, 3), slice(2, 4))
    np.testing.assert_array_equal(part, KERNEL[1:3, 2:4])
    assert list(read_t5x(checkpoint / "checkpoint")) == list(found)


def test_scales_of_zeros_are_read_though_tensorstore_stores_no_zeros(checkpoint):
    np.testing.assert_array_equal(read_t5x(checkpoint)["optimizer/target/norm/scale"].read(), 0)


def test_a_missing_chunk_is_not_read_as_zeros(checkpoint):
    (checkpoint / "target.kernel/1.0").unlink()
    assert "optimizer/target/kernel/kernel of the checkpoint cannot be read" in refusal(checkpoint)


def test_a_missing_array_is_named(checkpoint):
    (checkpoint / "target.half/.zarray").unlink()
    assert "optimizer/target/half/kernel of the checkpoint cannot be read" in refusal(checkpoint)


def test_a_path_that_leads_out_of_the_folder_is_refused(checkpoint):
    contents = {"target": {"kernel": spec("../elsewhere")}}
    (checkpoint / "checkpoint").write_bytes(serialization.to_bytes(contents))
    with pytest.raises(CorruptionError, match="elsewhere.*expected a relative path inside"):
        read_t5x(checkpoint)


def test_what_is_no_checkpoint_of_t5x_is_said(checkpoint, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    assert "has no file 'checkpoint'" in refusal(empty)
    (empty / "checkpoint").write_bytes(b'model_checkpoint_path: "model.ckpt-1000"\n')
    assert "is a checkpoint of TensorFlow" in refusal(empty)
    whole = (checkpoint / "checkpoint").read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        (empty / "checkpoint").write_bytes(whole[:length])
        assert "is not whole" in refusal(empty)
