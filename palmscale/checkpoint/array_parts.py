"""Arrays of a checkpoint read and written in parts, with TensorStore.

Orbax reads and writes whole arrays, or whole shards of them; a checkpoint may be larger than this
host's memory.
"""

import collections
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorstore

from palmscale.checkpoint.fingerprint import BlockFingerprint
from palmscale.errors import CorruptionError
from palmscale.storage.objects import ObjectPath
from palmscale.storage.place import Place
from palmscale.storage.tensor import Part, Tensor, Tensors, contiguous

_CHUNK_BYTES = 1 << 25  # as in `palmscale.checkpoint.arrays`
_CHUNKS_IN_FLIGHT = 4
_CONTEXT = {
    "cache_pool": {"total_bytes_limit": 1 << 28},  # chunks of which the next part reads the rest
    "file_io_concurrency": {"limit": 4},  # each holds a chunk
    "gcs_request_concurrency": {"limit": 4},
    "gcs_request_retries": {"max_retries": 6, "max_delay": "16s"},  # see `arrays`
}
_DATABASE = "manifest.ocdbt"  # with which Orbax gathers the arrays of an item in a few files
# Uncompressed, for the reasons in `arrays`.
_CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}]


def stored_tensors(folder: Place, arrays: Mapping[str, Mapping[str, Any]]) -> Tensors:
    """Returns the arrays that Orbax, or `write_arrays`, wrote to a folder.

    Args:
        folder: whose files have been verified.
        arrays: what the manifest states of each, {'shape', 'dtype'} by path.

    Raises:
        CorruptionError: the folder does not have such an array; when a part is read, also that data
            of it is missing, which would otherwise read as zeros.
    """
    context = tensorstore.Context(_CONTEXT)
    return {name: _stored(folder, name, stated, context) for name, stated in arrays.items()}


def _stored(
    folder: Place, name: str, stated: Mapping[str, Any], context: tensorstore.Context
) -> Tensor:
    spec = {
        "driver": "zarr3",
        "kvstore": _keys(folder, name, in_database=(folder / _DATABASE).is_file()),
        "fill_missing_data_reads": False,
        "recheck_cached_data": "open",
        "recheck_cached_metadata": "open",
    }
    where = f"the array {name} in {folder}"
    try:
        store = tensorstore.open(spec, open=True, read=True, context=context).result()
    except ValueError as error:  # TensorStore's error for everything
        raise CorruptionError(f"{where} cannot be read ({_first_line(error)}).") from error
    shape, dtype = tuple(store.shape), np.dtype(store.dtype.numpy_dtype)
    if [*shape] != [*stated["shape"]] or str(dtype) != stated["dtype"]:
        raise CorruptionError(
            f"{where} is {dtype}{[*shape]}, and the manifest states"
            f" {stated['dtype']}{[*stated['shape']]}; use an intact copy."
        )

    def read(part: Part) -> np.ndarray:
        try:
            return store[part].read().result()
        except ValueError as error:
            raise CorruptionError(f"{where} cannot be read ({_first_line(error)}).") from error

    return Tensor(shape, dtype, read)


def write_arrays(folder: Place, tensors: Tensors) -> dict[str, dict[str, Any]]:
    """Writes tensors chunk by chunk, in a form from which Orbax loads the arrays of an item.

    A chunk is a file of its own. The database in which Orbax gathers them would be rewritten with
    every few chunks.

    Args:
        folder: of the item, which does not exist yet.
        tensors: by path.

    Returns:
        What a manifest states of each: {'shape', 'dtype', 'fingerprint'} by path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    context = tensorstore.Context(_CONTEXT)
    described = {name: _write(folder, name, tensor, context) for name, tensor in tensors.items()}
    (folder / "_METADATA").write_bytes(json.dumps(_tree_metadata(tensors)).encode())
    return described


def _write(
    folder: Place, name: str, tensor: Tensor, context: tensorstore.Context
) -> dict[str, Any]:
    chunk = chunk_shape(tensor.shape, tensor.dtype.itemsize)
    store = _created(folder, name, tensor, chunk, context)
    fingerprint = BlockFingerprint()
    in_flight: collections.deque[tensorstore.WriteFutures] = collections.deque()
    for part in _grid(tensor.shape, chunk):
        block = contiguous(tensor.read_part(part))
        fingerprint.add(block, tuple(s.start for s in part))
        if len(in_flight) == _CHUNKS_IN_FLIGHT:
            in_flight.popleft().result()
        in_flight.append(store[part].write(block))
    for written in in_flight:
        written.result()
    return {
        "shape": [*tensor.shape],
        "dtype": str(tensor.dtype),
        "fingerprint": fingerprint.text if tensor.size else None,
    }


def _created(
    folder: Place,
    name: str,
    tensor: Tensor,
    chunk: tuple[int, ...],
    context: tensorstore.Context,
) -> tensorstore.TensorStore:
    spec = {
        "driver": "zarr3",
        "kvstore": _keys(folder, name, in_database=False),
        "store_data_equal_to_fill_value": True,
        "metadata": {
            "shape": [*tensor.shape],
            "data_type": str(tensor.dtype),
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [*chunk]}},
            "chunk_key_encoding": {"name": "default"},
            "codecs": _CODECS,
            "fill_value": 0.0,
        },
    }
    return tensorstore.open(spec, create=True, context=context).result()


def chunk_shape(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Returns the shape of chunks of at most 32 MiB: of one layer each, and nearly square.

    Both an array and its transpose are then read in few chunks.
    """
    chunk = [*shape]
    if len(chunk) > 2:
        chunk[0] = 1
    while math.prod(chunk) * itemsize > _CHUNK_BYTES:
        largest = chunk.index(max(chunk))
        chunk[largest] = -(-chunk[largest] // 2)
    return tuple(max(1, size) for size in chunk)


def _grid(shape: tuple[int, ...], chunk: tuple[int, ...]) -> Iterator[Part]:
    ranges = [
        [slice(start, min(start + size, length)) for start in range(0, length, size)]
        for length, size in zip(shape, chunk, strict=True)
    ]
    return itertools.product(*ranges)


def _keys(folder: Place, name: str, *, in_database: bool) -> dict[str, Any]:
    """Returns TensorStore's description of where the chunks of an array are."""
    array = f"{name.replace('/', '.')}/"
    if isinstance(folder, ObjectPath):
        bucket = folder.bucket
        path = f"{folder.relative_to(bucket).as_posix()}/"
        base = {"driver": "gcs", "bucket": bucket.name, "path": path}
    else:
        base = {"driver": "file", "path": f"{folder.absolute()}/"}
    if in_database:
        return {"driver": "ocdbt", "base": base, "path": array}
    return base | {"path": f"{base['path']}{array}"}


def _tree_metadata(tensors: Tensors) -> dict[str, Any]:
    tree = {}
    for name, tensor in tensors.items():
        keys = tuple(name.split("/"))
        tree[str(keys)] = {
            "key_metadata": [{"key": key, "key_type": 2} for key in keys],  # 2: of a dict
            "value_metadata": {
                "value_type": "jax.Array",
                "skip_deserialize": False,
                "write_shape": [*tensor.shape],
            },
        }
    return {
        "tree_metadata": tree,
        "use_ocdbt": False,
        "use_zarr3": True,
        "store_array_data_equal_to_fill_value": True,
        "custom_metadata": None,
    }


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
