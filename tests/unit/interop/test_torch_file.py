"""Files of PyTorch without torch; tests/e2e/test_torch_files.py reads them with torch."""

import os
import pickle
import sys
import zipfile

import numpy as np
import pytest

from palmscale.errors import UserError
from palmscale.interop.tensor_files import read_tensors, write_tensors
from palmscale.interop.tensors import of_array


class Bomb:
    """Unpickled, it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(autouse=True)
def without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_without_torch_a_line_says_what_to_install(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"anything")
    with pytest.raises(UserError, match="PyTorch, which is not installed; install it .pip install"):
        read_tensors(path)
    with pytest.raises(UserError, match="or use .safetensors"):
        write_tensors(path, {"a": of_array(np.zeros(3))})


@pytest.mark.parametrize("archived", [True, False])
def test_without_torch_a_pickle_is_not_opened(tmp_path, archived):
    path, made = tmp_path / "model.pt", tmp_path / "made"
    if archived:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model/data.pkl", pickle.dumps(Bomb(made)))
    else:
        path.write_bytes(pickle.dumps(Bomb(made)))
    with pytest.raises(UserError):
        read_tensors(path)
    assert not made.exists()
