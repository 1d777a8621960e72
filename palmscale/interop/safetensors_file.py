"""Safetensors files, read and written in parts.

The package `safetensors` maps whole files into memory and writes whole tensors; a file here may be
larger than memory. The format: the length of the header (8 bytes, little-endian), the header (JSON:
name to dtype, shape and offsets), and the tensors.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from palmscale.errors import UserError
from palmscale.exit_codes import printable
from palmscale.interop.tensors import Part, Tensor, Tensors
from palmscale.storage.tensor import contiguous

SUFFIX = ".safetensors"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 5_000_000_000
_MOST_HEADER_BYTES = 100_000_000  # as in the package
_BLOCK_BYTES = 1 << 27  # of what is read at once: several chunks of a checkpoint
_METADATA = "__metadata__"
_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

Open = Callable[[Path], BinaryIO]


def read_safetensors(path: Path) -> Tensors:
    """Returns the tensors of a file, or of a folder with one file or an index of several.

    Raises:
        UserError: a file is missing, is not a safetensors file, or is not whole.
    """
    if not path.is_dir():
        return _tensors(path)
    if not (path / INDEX).is_file():
        return _tensors(path / SINGLE)
    weight_map = _weight_map(path / INDEX)
    files = {name: _tensors(path / name) for name in sorted(set(weight_map.values()))}
    for name, file in weight_map.items():
        if name not in files[file]:
            raise UserError(f"{path / file} has no tensor {printable(name)}, which {INDEX} names.")
    return {name: files[file][name] for name, file in weight_map.items()}


def read_metadata(path: Path) -> dict[str, str]:
    """Returns the texts that the header of a file holds; see `read_safetensors`."""
    found = _header(path)[0].get(_METADATA, {})
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise _foreign(path, "its metadata are not texts")
    return found


def write_safetensors(
    path: Path,
    tensors: Tensors,
    *,
    metadata: Mapping[str, str] | None = None,
    open_file: Open = lambda path: open(path, "wb"),
) -> None:
    """Writes tensors to one file, in their order, block by block.

    Args:
        path: of the file.
        tensors: by name.
        metadata: texts for the header, by name.
        open_file: opens the file to write to.
    """
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    start = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": [*tensor.shape],
            "data_offsets": [start, start := start + tensor.bytes],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open_file(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            for _, block in tensor.blocks(_BLOCK_BYTES):
                file.write(contiguous(block).reshape(-1).view(np.uint8).data)


def write_shards(
    folder: Path,
    tensors: Tensors,
    *,
    metadata: Mapping[str, str] | None = None,
    shard_bytes: int = SHARD_BYTES,
    open_file: Open = lambda path: open(path, "wb"),
) -> None:
    """Writes tensors to files of at most `shard_bytes`, and their index if there are several.

    A tensor is not split. The names are those that Hugging Face's packages read.
    """
    shards = _shards(tensors, shard_bytes)
    options = {"metadata": metadata, "open_file": open_file}
    if len(shards) == 1:
        write_safetensors(folder / SINGLE, tensors, **options)
        return
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}{SUFFIX}"
        write_safetensors(folder / file, {name: tensors[name] for name in names}, **options)
        weight_map |= dict.fromkeys(names, file)
    total = sum(tensor.bytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _shards(tensors: Tensors, shard_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    held = 0
    for name, tensor in tensors.items():
        if shards[-1] and held + tensor.bytes > shard_bytes:
            shards.append([])
            held = 0
        shards[-1].append(name)
        held += tensor.bytes
    return shards


def _tensors(path: Path) -> dict[str, Tensor]:
    header, start, data_bytes = _header(path)
    found, covered = {}, 0
    for name, entry in header.items():
        if name == _METADATA:
            continue
        dtype, shape, (begin, end) = _entry(path, name, entry)
        if not 0 <= begin <= end or end - begin != math.prod(shape) * dtype.itemsize:
            raise _foreign(path, f"the size of {printable(name)} is not that of its shape")
        found[name] = _mapped(path, start + begin, dtype, shape)
        covered = max(covered, end)
    if covered > data_bytes:
        raise UserError(
            f"{path} is not whole: its tensors take {covered:,} bytes, and it has {data_bytes:,};"
            " copy or download it again."
        )
    return found


def _header(path: Path) -> tuple[dict[str, Any], int, int]:
    """Returns the header of a file, where its data begins, and the number of bytes of them."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > _MOST_HEADER_BYTES:
                raise _foreign(path, "it begins with no header")
            if size < 8 + length:
                raise UserError(
                    f"{path} is not whole: its header takes {length:,} bytes, and it has"
                    f" {size:,}; copy or download it again."
                )
            header = json.loads(file.read(length))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); correct the path.") from None
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise _foreign(path, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise _foreign(path, "its header is not an object")
    return header, 8 + length, size - 8 - length


def _entry(path: Path, name: str, entry: Any) -> tuple[np.dtype, tuple[int, ...], tuple[int, int]]:
    try:
        shape, offsets = tuple(entry["shape"]), tuple(entry["data_offsets"])
        numbers = [*shape, *offsets]
        kind = str(entry["dtype"])
        is_whole = all(type(n) is int and n >= 0 for n in numbers) and len(offsets) == 2
    except (KeyError, TypeError):
        is_whole = False
    if not is_whole:
        raise _foreign(path, f"its entry of {printable(name)} is malformed")
    if kind not in _DTYPES:
        raise UserError(
            f"{path}: the dtype {printable(kind)} of {printable(name)} is not supported; expected"
            f" one of {', '.join(_DTYPES)}."
        )
    return _DTYPES[kind], shape, offsets


def _mapped(path: Path, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> Tensor:
    def read(part: Part) -> np.ndarray:
        if not math.prod(shape):
            return np.zeros([s.stop - s.start for s in part], dtype)
        # Mapped for this part alone: pages that are read count as this process's memory.
        try:
            whole = np.memmap(path, dtype, "r", offset, shape or (1,))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} has changed while it is read ({error}).") from error
        return np.array(whole[part] if shape else whole[0])

    return Tensor(shape, dtype, read)


def _weight_map(path: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(path.read_bytes())["weight_map"]
        names: Iterable[Any] = [*weight_map, *weight_map.values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path} is not an index of safetensors files; use an intact one."
        ) from None
    if not all(isinstance(name, str) for name in names) or not weight_map:
        raise UserError(f"{path} is not an index of safetensors files; use an intact one.")
    for file in sorted(set(weight_map.values())):
        if Path(file).name != file:  # it may come from anywhere
            raise UserError(f"{path} names the file {printable(file)} outside its folder.")
    return weight_map


def _foreign(path: Path, why: str) -> UserError:
    return UserError(f"{path} is not a safetensors file ({why}); name one.")
