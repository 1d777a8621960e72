"""T5X's checkpoints: a file `checkpoint` that holds or names arrays, and the arrays beside it.

`checkpoint` is a nested map of flax.serialization. In the place of an array stands its TensorStore
spec (T5X), or a text PLACEHOLDER://NAME (T5X with Orbax); small arrays are in the file itself.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from palmscale.errors import UserError
from palmscale.interop.msgpack_file import read_msgpack
from palmscale.interop.tensors import Part, Tensor, Tensors
from palmscale.storage.inside import inside

_INDEX = "checkpoint"
_PLACEHOLDER = "PLACEHOLDER://"
_CACHE_BYTES = 1 << 29
_METADATA = {"zarr": ".zarray", "zarr3": "zarr.json"}  # by driver
_OF_TENSORFLOW = b"model_checkpoint_path"


def read_t5x(path: Path) -> Tensors:
    """Returns the arrays of a checkpoint by their names joined with `/`.

    Args:
        path: the folder, `checkpoint_1000`, or the file `checkpoint` in it.

    Raises:
        UserError: there is no checkpoint, it is one of TensorFlow, or an array is missing.
    """
    index = path / _INDEX if path.is_dir() else path
    if not index.is_file():
        raise UserError(f"{path} has no file {_INDEX!r}, so it is not a checkpoint of T5X.")
    with open(index, "rb") as file:
        if file.read(len(_OF_TENSORFLOW)) == _OF_TENSORFLOW:
            raise UserError(
                f"{path} is a checkpoint of TensorFlow; expected one that T5X saved natively."
            )
    return dict(_tensors(index.parent, read_msgpack(index), ()))


def _tensors(
    folder: Path, tree: Mapping[str, Any], names: tuple[str, ...]
) -> Iterator[tuple[str, Tensor]]:
    for key, value in tree.items():
        name = "/".join((*names, key))
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, Mapping) and value.keys() >= {"driver", "kvstore"}:
            yield name, _opened(folder, _path_of(value, name), str(value["driver"]), name)
        elif isinstance(value, Mapping):
            yield from _tensors(folder, value, (*names, key))
        elif isinstance(value, str) and value.startswith(_PLACEHOLDER):
            yield name, _opened(folder, value.removeprefix(_PLACEHOLDER), "zarr", name)


def _path_of(spec: Mapping[str, Any], name: str) -> str:
    kvstore = spec["kvstore"]
    path = kvstore.get("path") if isinstance(kvstore, Mapping) else None
    path = path or spec.get("path")  # as TensorStore before 0.1.14 had it
    if not isinstance(path, str):
        raise UserError(f"{name} of the checkpoint names no file; use an intact copy.")
    return path.rstrip("/")


def _opened(folder: Path, relative: str, driver: str, name: str) -> Tensor:
    if driver not in _METADATA:
        raise UserError(f"{name} is stored by TensorStore's driver {driver!r}; expected 'zarr'.")
    import tensorstore as ts

    where = inside(folder, f"{relative}/{_METADATA[driver]}").parent
    spec = {
        "driver": driver,
        "kvstore": {"driver": "file", "path": f"{where}/"},
        # TensorStore leaves out chunks of zeros, as norm scales begin; a kernel has none.
        "fill_missing_data_reads": name.endswith("/scale"),
        "recheck_cached_data": False,
    }

    def explained(act: Callable[[], Any]) -> Any:
        try:
            return act()
        except (ValueError, OSError) as error:
            raise UserError(
                f"{name} of the checkpoint cannot be read from {where}"
                f" ({' '.join(str(error).split())[:150]}); use an intact copy."
            ) from None

    store = explained(lambda: ts.open(spec, read=True, open=True, context=_cache()).result())

    def read(part: Part) -> np.ndarray:
        return explained(lambda: store[part].read().result())

    return Tensor(tuple(store.shape), np.dtype(store.dtype.numpy_dtype), read)


@functools.cache
def _cache() -> Any:
    """Returns the context of all arrays, which keeps chunks: several parts are read of each."""
    import tensorstore as ts

    return ts.Context({"cache_pool": {"total_bytes_limit": _CACHE_BYTES}})
