"""The files of flax.serialization: nested maps in MessagePack, whose arrays are read in parts."""

import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import msgpack
import numpy as np

from palmscale.errors import UserError
from palmscale.interop import tensors as lazy
from palmscale.interop.tensors import Part, Tensor, Tensors, of_array

_ARRAY = 1  # flax's extension type of arrays
_CHUNKED = "__msgpack_chunked_array__"  # flax cuts arrays of more than 1 GiB
_MOST_DEPTH = 50
# The first byte of a value: the length of the size that follows it.
_EXTENSIONS = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_BINARIES = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_MOST_BYTES = 2**32 - 2**16  # of an extension, less its header


def read_msgpack(path: Path) -> dict[str, Any]:
    """Returns the nested map of a file, with a `Tensor` for each array.

    Raises:
        UserError: the file is not one of flax.serialization, or is not whole.
    """
    try:
        with open(path, "rb") as file:
            found, _ = _value(path, file, 0, 0)
    except (ValueError, TypeError, KeyError, struct.error, msgpack.UnpackException) as error:
        raise UserError(
            f"{path} is not a file of flax.serialization, or is not whole"
            f" ({error or type(error).__name__}); use an intact copy."
        ) from None
    if not isinstance(found, Mapping):
        raise UserError(f"{path} does not hold a map of arrays by name; use an intact copy.")
    return dict(found)


def read_arrays(path: Path) -> Tensors:
    """Returns the arrays of a file, by their names joined with `/`; see `read_msgpack`."""
    return dict(_arrays(read_msgpack(path)))


def _arrays(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _arrays(value, f"{prefix}{name}/")
        elif isinstance(value, Tensor):
            yield f"{prefix}{name}", value


def write_msgpack(path: Path, tensors: Tensors) -> None:
    """Writes tensors to a file as nested maps, whose names `/` joins, block by block.

    Raises:
        UserError: a tensor has more than 4 GiB.
    """
    tree: dict[str, Any] = {}
    for name, tensor in tensors.items():
        *folders, last = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        if tensor.bytes > _MOST_BYTES:
            raise UserError(f"{name} has over 4 GiB, more than MessagePack holds; write .npz.")
        node[last] = tensor
    with open(path, "wb") as file:
        _write(file, tree)


def _value(path: Path, file: BinaryIO, at: int, depth: int) -> tuple[Any, int]:
    """Returns the value at a position, and where the next one begins."""
    if depth > _MOST_DEPTH:
        raise ValueError(f"maps within maps, more than {_MOST_DEPTH}")
    file.seek(at)
    kind = file.read(1)
    if not kind:
        raise ValueError("the file ends within a map")
    first = kind[0]
    if first in _EXTENSIONS:
        header = 1 + _EXTENSIONS[first]
        size = int.from_bytes(file.read(header - 1), "big")
        end = at + header + 1 + size
        if file.read(1) == bytes([_ARRAY]):
            return _array(path, file, at + header + 1, end), end
        return _plain(file, at)
    if not (0x80 <= first <= 0x8F or first in (0xDE, 0xDF)):
        return _plain(file, at)
    unpacker = _unpacker(file, at)
    entries = unpacker.read_map_header()
    at += unpacker.tell()
    found = {}
    for _ in range(entries):
        name, at = _plain(file, at)
        found[str(name)], at = _value(path, file, at, depth + 1)
    return (_joined(found) if _CHUNKED in found else found), at


def _plain(file: BinaryIO, at: int) -> tuple[Any, int]:
    unpacker = _unpacker(file, at)
    return unpacker.unpack(), at + unpacker.tell()


def _unpacker(file: BinaryIO, at: int) -> msgpack.Unpacker:
    file.seek(at)
    return msgpack.Unpacker(file, read_size=4096, max_buffer_size=2**26, strict_map_key=False)


def _array(path: Path, file: BinaryIO, start: int, end: int) -> Tensor:
    """Returns the array [shape, dtype, values] of an extension's content."""
    unpacker = _unpacker(file, start)
    if unpacker.read_array_header() != 3:
        raise ValueError("an array without shape, dtype and values")
    shape, dtype = tuple(unpacker.unpack()), jnp.dtype(unpacker.unpack())
    file.seek(start + unpacker.tell())
    length = _BINARIES[file.read(1)[0]]
    size = int.from_bytes(file.read(length), "big")
    begin = file.tell()
    if size != math.prod(shape) * dtype.itemsize or begin + size != end:
        raise ValueError(f"an array {list(shape)} of {dtype} with {size} bytes")
    if file.seek(0, 2) < end:
        raise ValueError("the file ends within an array")
    if not size:
        return of_array(np.zeros(shape, dtype))
    mapped = np.memmap(path, np.uint8, "r", begin, (size,))
    return of_array(mapped.view(dtype).reshape(shape))


def _joined(chunked: Mapping[str, Any]) -> Tensor:
    """Returns the array that flax has cut into pieces of its flat values."""
    shape = tuple(chunked["shape"][str(n)] for n in range(len(chunked["shape"])))
    chunks = [chunked["chunks"][str(n)] for n in range(len(chunked["chunks"]))]
    row = math.prod(shape[1:])
    if sum(chunk.size for chunk in chunks) != shape[0] * row:
        raise ValueError(f"an array {list(shape)} in pieces of another size")
    flat = lazy.concatenate(chunks, 0)

    def read(part: Part) -> np.ndarray:
        rows = part[0]
        values = flat.read_part((slice(rows.start * row, rows.stop * row),))
        return values.reshape(-1, *shape[1:])[(slice(None), *part[1:])]

    return Tensor(shape, flat.dtype, read)


def _write(file: BinaryIO, node: Mapping[str, Any] | Tensor) -> None:
    packer = msgpack.Packer()
    if not isinstance(node, Tensor):
        file.write(packer.pack_map_header(len(node)))
        for name, inner in node.items():
            file.write(packer.pack(name))
            _write(file, inner)
        return
    # As flax packs an array: an extension of [shape, dtype, values].
    head = packer.pack_array_header(3) + packer.pack(node.shape) + packer.pack(node.dtype.name)
    head += struct.pack(">BI", 0xC6, node.bytes)
    file.write(struct.pack(">BIb", 0xC9, len(head) + node.bytes, _ARRAY) + head)
    for _, block in node.blocks():
        file.write(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
