"""NumPy's and Equinox's files are read in parts, and damaged or foreign ones are refused."""

import io
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest

from palmscale.errors import UserError
from palmscale.interop.npy_files import read_eqx, read_npz, write_eqx, write_npz
from palmscale.interop.tensors import of_array

ARRAYS = {
    "params/kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
    "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "none": np.zeros((0, 4), np.int8),
    "scalar": np.array(3, np.int64),
}


def assert_equal(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name].read(), array)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_wrote_is_read(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    found = read_npz(tmp_path / "a.npz")
    assert_equal(found, ARRAYS)
    part = found["params/kernel"].read(slice(1, 3), slice(0, 2))
    np.testing.assert_array_equal(part, ARRAYS["params/kernel"][1:3, :2])


def test_numpy_reads_what_is_written(tmp_path):
    tensors = {name: of_array(array) for name, array in ARRAYS.items()}
    write_npz(tmp_path / "a.npz", tensors)
    with np.load(tmp_path / "a.npz") as found:
        assert_equal({name: of_array(found[name]) for name in found}, ARRAYS)
    write_eqx(tmp_path / "a.eqx", tensors)
    assert_equal(read_eqx(tmp_path / "a.eqx"), dict(zip("0123", ARRAYS.values())))


def test_bfloat16_which_numpy_would_lose_is_refused(tmp_path):
    tensors = {"a": of_array(np.zeros(3, ml_dtypes.bfloat16))}
    for write, name in ((write_npz, "a.npz"), (write_eqx, "a.eqx")):
        with pytest.raises(UserError, match="cannot hold bfloat16; choose dtype=float32"):
            write(tmp_path / name, tensors)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
def test_a_truncated_file_is_refused_in_one_line(tmp_path, share):
    np.savez(tmp_path / "a.npz", **ARRAYS)
    write_eqx(tmp_path / "a.eqx", {name: of_array(array) for name, array in ARRAYS.items()})
    for path, read in ((tmp_path / "a.npz", read_npz), (tmp_path / "a.eqx", read_eqx)):
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * share)])
        if share or read is read_npz:
            with pytest.raises(
                UserError, match="or is not whole .*; use an intact copy"
            ) as refused:
                read(path)
            assert "\n" not in str(refused.value)


@pytest.mark.parametrize("shape", [(-40,), (2**70,), (10**9, 10**9)])
def test_shapes_that_cannot_be_are_refused(tmp_path, shape):
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with open(tmp_path / "a.eqx", "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(64))
    content = (tmp_path / "a.eqx").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", content)
    for path, read in ((tmp_path / "a.npz", read_npz), (tmp_path / "a.eqx", read_eqx)):
        with pytest.raises(UserError, match="or is not whole"):
            read(path)


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("the pickle was executed",)


def test_pickled_objects_are_never_loaded(tmp_path):
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        content, {"descr": "|O", "fortran_order": False, "shape": (1,)}
    )
    content.write(pickle.dumps(Bomb()))
    (tmp_path / "a.eqx").write_bytes(content.getvalue())
    with pytest.raises(UserError, match="which are not numbers"):
        read_eqx(tmp_path / "a.eqx")
    np.savez(tmp_path / "a.npz", a=np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="which are not numbers"):
        read_npz(tmp_path / "a.npz")
