"""NumPy's arrays in files, read and written in parts: `.npz`, and Equinox's `.eqx`.

An .npz is a zip archive of .npy arrays by name. An .eqx is one .npy array after another, without
names: they are numbered here.
"""

import functools
import math
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from palmscale.errors import UserError
from palmscale.interop.tensors import Tensor, Tensors, of_array

_LOCAL_HEADER = 30  # bytes before the name of a zip entry
_ERRORS = (ValueError, EOFError, OSError, zipfile.BadZipFile, NotImplementedError)


def read_npz(path: Path) -> Tensors:
    """Returns the arrays of an .npz file by name; compressed ones are read whole when needed.

    Raises:
        UserError: the file is not an .npz of plain arrays, or is not whole.
    """
    found = {}
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            for entry in archive.infolist():
                name = entry.filename.removesuffix(".npy")
                if entry.compress_type == zipfile.ZIP_STORED:
                    file.seek(entry.header_offset + _LOCAL_HEADER - 4)
                    name_bytes, extra_bytes = np.frombuffer(file.read(4), "<u2").tolist()
                    file.seek(name_bytes + extra_bytes, 1)
                    found[name] = _mapped(path, file)
                else:
                    with archive.open(entry) as stream:
                        shape, dtype, _ = _header(stream)
                    if math.prod(shape) * dtype.itemsize > entry.file_size:
                        raise ValueError("the file ends within an array")
                    found[name] = Tensor(shape, dtype, _Compressed(path, entry.filename))
    except _ERRORS as error:
        raise _damaged(path, "an .npz file of plain arrays", error) from None
    return found


def read_eqx(path: Path) -> Tensors:
    """Returns the arrays of an Equinox file by number: `0`, `1`, ...

    Raises:
        UserError: the file is not one array after another, or is not whole.
    """
    found: dict[str, Tensor] = {}
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            while file.tell() < size:
                found[str(len(found))] = _mapped(path, file)
    except _ERRORS as error:
        raise _damaged(path, "an Equinox file of plain arrays", error) from None
    return found


def write_npz(path: Path, tensors: Tensors) -> None:
    """Writes tensors to an .npz file, block by block."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, tensor in tensors.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                _write(stream, tensor)


def write_eqx(path: Path, tensors: Tensors) -> None:
    """Writes tensors to an Equinox file in their order, without names."""
    with open(path, "wb") as file:
        for tensor in tensors.values():
            _write(file, tensor)


class _Compressed:
    """Reads parts of an array that has to be decompressed whole; the last one is kept."""

    def __init__(self, path: Path, entry: str):
        self._path, self._entry = path, entry

    def __call__(self, part: tuple[slice, ...]) -> np.ndarray:
        return _decompressed(self._path, self._entry)[part]


@functools.lru_cache(maxsize=1)
def _decompressed(path: Path, entry: str) -> np.ndarray:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(entry) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)
    except _ERRORS as error:
        raise _damaged(path, "an .npz file of plain arrays", error) from None


def _header(stream: BinaryIO) -> tuple[tuple[int, ...], np.dtype, str]:
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"arrays of version {version}")
    shape, fortran_order, dtype = read(stream)
    if dtype.hasobject or dtype.kind == "V":
        raise ValueError(f"an array of {dtype}, which are not numbers")
    if any(size < 0 for size in shape):
        raise ValueError(f"an array of the shape {shape}")
    return shape, dtype, "F" if fortran_order else "C"


def _mapped(path: Path, file: BinaryIO) -> Tensor:
    """Returns the array at the file's position, and moves the position behind it."""
    shape, dtype, order = _header(file)
    start = file.tell()
    size = math.prod(shape) * dtype.itemsize
    if file.seek(0, 2) < start + size:
        raise ValueError("the file ends within an array")
    file.seek(start + size)
    if not size:
        return of_array(np.zeros(shape, dtype))
    return of_array(np.memmap(path, dtype, "r", start, shape, order))


def _write(stream: BinaryIO, tensor: Tensor) -> None:
    if tensor.dtype.kind == "V":
        raise UserError(
            "NumPy's files cannot hold bfloat16; choose dtype=float32, or write .safetensors."
        )
    header = {
        "descr": np.lib.format.dtype_to_descr(tensor.dtype),
        "fortran_order": False,
        "shape": tensor.shape,
    }
    np.lib.format.write_array_header_1_0(stream, header)
    for _, block in tensor.blocks():
        stream.write(np.ascontiguousarray(block).data)


def _damaged(path: Path, expected: str, error: Exception) -> UserError:
    return UserError(f"{path} is not {expected}, or is not whole ({error}); use an intact copy.")
