"""Which layout a file or folder of another program has, found out without reading its weights."""

import pickletools
import zipfile
from collections.abc import Iterable
from pathlib import Path

from palmscale.errors import UserError
from palmscale.interop import hf_config
from palmscale.interop.recognize import looks_like
from palmscale.interop.safetensors_file import INDEX, SINGLE, SUFFIX, read_safetensors

_T5X_INDEX = "checkpoint"  # the file in which T5X keeps the tree
_GGUF = b"GGUF"  # how llama.cpp's files begin
_MOST_NAME_BYTES = 1 << 24  # of a pickle, which is searched for names and never unpickled
_SUFFIXES = {".msgpack": "palm_flax", ".eqx": "palm_jax"}


def foreign_layout(path: Path) -> str | None:
    """Returns the layout that an existing path has; None: it is not known, or there is no path.

    Raises:
        UserError: it is Hugging Face's folder of an architecture that palmscale does not import, or
            a file of llama.cpp.
    """
    try:
        if path.is_dir():
            return _of_folder(path)
        return _of_file(path) if path.is_file() else None
    except UserError:
        raise
    except (OSError, ValueError, zipfile.BadZipFile):  # damaged: an import says how
        return None


def _of_folder(path: Path) -> str | None:
    if (path / "config.json").is_file():
        config = hf_config.read(path / "config.json")
        if hf_config.is_ours(config):
            return "hf"
        if "architectures" in config:
            raise hf_config.another_architecture(path / "config.json", config)
    if (path / _T5X_INDEX).is_file():
        return "t5x"
    if (path / SINGLE).is_file() or (path / INDEX).is_file():
        return looks_like(_names_in_safetensors(path))
    return None


def _of_file(path: Path) -> str | None:
    if path.suffix == SUFFIX:
        return looks_like(_names_in_safetensors(path))
    with open(path, "rb") as file:
        if file.read(len(_GGUF)) == _GGUF:
            raise UserError(
                f"{path} is a file of llama.cpp (GGUF), which palmscale does not import; name the"
                " run that it was exported from, or import its weights in another layout."
            )
    if zipfile.is_zipfile(path):  # of NumPy or PyTorch
        return looks_like(_names_in_zip(path))
    return _SUFFIXES.get(path.suffix)


def _names_in_safetensors(path: Path) -> Iterable[str]:
    try:
        return read_safetensors(path)
    except UserError:  # it is damaged: the import says how
        return ()


def _names_in_zip(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        for pickle in [name for name in names if name.endswith("/data.pkl")]:
            with archive.open(pickle) as file:
                operations = pickletools.genops(file.read(_MOST_NAME_BYTES))  # none is done
            names += [argument for _, argument, _ in operations if isinstance(argument, str)]
    return names
