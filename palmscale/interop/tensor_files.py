"""Files of tensors by name, of the kind that their suffix says."""

import importlib
from collections.abc import Callable
from pathlib import Path

from palmscale.errors import UserError
from palmscale.interop.tensors import Tensors

# Suffix: the module that reads and writes such files, and its functions.
_KINDS = {
    ".safetensors": ("safetensors_file", "read_safetensors", "write_safetensors"),
    ".npz": ("npy_files", "read_npz", "write_npz"),
    ".eqx": ("npy_files", "read_eqx", "write_eqx"),
    ".msgpack": ("msgpack_file", "read_arrays", "write_msgpack"),
    ".pt": ("torch_file", "read_torch", "write_torch"),
    ".pth": ("torch_file", "read_torch", "write_torch"),
    ".bin": ("torch_file", "read_torch", "write_torch"),
}


def read_tensors(path: Path) -> Tensors:
    """Returns the tensors of a file, or of a folder of .safetensors files.

    Raises:
        UserError: the suffix is not known, or the file is missing or damaged.
    """
    read = _function(path, 1)
    if not path.exists():
        raise UserError(f"{path} does not exist; correct the path.")
    return read(path)


def write_tensors(path: Path, tensors: Tensors) -> None:
    """Writes tensors to a file.

    Raises:
        UserError: the suffix is not known, or such files cannot hold the tensors.
    """
    _function(path, 2)(path, tensors)


def _function(path: Path, which: int) -> Callable:
    suffix = ".safetensors" if path.is_dir() else path.suffix.lower()
    if suffix not in _KINDS:
        raise UserError(
            f"{path.name} has no suffix of a file of tensors; expected {', '.join(_KINDS)}."
        )
    module, *functions = _KINDS[suffix]
    found = importlib.import_module(f"palmscale.interop.{module}")
    return getattr(found, functions[which - 1])
