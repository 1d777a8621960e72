"""PyTorch's files, whose weights are read without running what a pickle names.

Only torch reads them, so it must be installed; nothing else of palmscale uses it.
"""

import functools
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np

from palmscale.errors import UserError
from palmscale.interop.tensors import Part, Tensor, Tensors

_WANTED = re.compile(r"GLOBAL:? ([\w.]+)", re.IGNORECASE)  # in torch's message
_STATES = ("state_dict", "model_state_dict", "model")  # where training scripts put the weights


def read_torch(path: Path) -> Tensors:
    """Returns the tensors of a file of torch.save, which stay on the disk if its format allows it.

    Raises:
        UserError: torch is not installed, the file is damaged, or it holds more than tensors.
    """
    torch = _torch(path)
    load = functools.partial(torch.load, path, map_location="cpu", weights_only=True)
    try:
        with warnings.catch_warnings(action="ignore"):
            try:
                found = load(mmap=True)
            except (RuntimeError, ValueError):  # before torch 1.6 files were not archives
                found = load()
    except Exception as error:  # of pickle, zipfile and torch
        raise _unreadable(path, error) from None
    state = next((found[key] for key in _STATES if _is_state(found, key)), found)
    tensors = isinstance(state, Mapping) and all(map(torch.is_tensor, state.values()))
    if not tensors or not state:
        raise UserError(f"{path} holds no state dict; expected a map of names to tensors.")
    return {str(name): _lazy(torch, tensor) for name, tensor in state.items()}


def write_torch(path: Path, tensors: Tensors) -> None:
    """Writes a state dict, which is built in memory; the same `Tensor` twice is stored once.

    Raises:
        UserError: torch is not installed.
    """
    torch = _torch(path)
    held: dict[int, Any] = {}
    for tensor in tensors.values():
        if id(tensor) not in held:
            values = np.ascontiguousarray(tensor.read())
            if tensor.dtype == ml_dtypes.bfloat16:
                held[id(tensor)] = torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
            else:
                held[id(tensor)] = torch.from_numpy(values)
    torch.save({name: held[id(tensor)] for name, tensor in tensors.items()}, path)


def _unreadable(path: Path, error: Exception) -> UserError:
    if "weights_only" in str(error):
        named = _WANTED.search(str(error))
        what = f" (it names {named[1]})" if named else ""
        return UserError(
            f"{path} holds more than tensors{what}, and reading it could run code; save its"
            " state_dict() alone, or convert it to .safetensors where you trust it."
        )
    why = " ".join(str(error).split())[:100] or type(error).__name__
    return UserError(
        f"{path} is not a file of torch.save, or is not whole ({why}); use an intact copy."
    )


def _is_state(found: Any, key: str) -> bool:
    return isinstance(found, Mapping) and isinstance(found.get(key), Mapping)


def _torch(path: Path) -> ModuleType:
    try:
        import torch
    except ModuleNotFoundError:
        raise UserError(
            f"{path.name} is a file of PyTorch, which is not installed; install it (pip install"
            " torch), or use .safetensors."
        ) from None
    return torch


def _lazy(torch: ModuleType, tensor: Any) -> Tensor:
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        bits, dtype = tensor.view(torch.int16), np.dtype(ml_dtypes.bfloat16)
    else:
        bits = tensor
        dtype = bits.numpy().dtype

    def read(part: Part) -> np.ndarray:
        return bits[part].numpy().view(dtype)

    return Tensor(tuple(tensor.shape), dtype, read)
