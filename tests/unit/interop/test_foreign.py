"""A file or folder of another program is known by its names, without reading or running it."""

import json
import pickle
import zipfile

import numpy as np
import pytest
from outgoing_model import outgoing

from palmscale.errors import UserError
from palmscale.interop import hf, palmscale_safetensors
from palmscale.interop.foreign import foreign_layout
from palmscale.interop.safetensors_file import write_safetensors
from palmscale.interop.tensors import of_array

PYTORCH = {"1.fn.fused_attn_ff_proj.weight": 0, "0.weight": 0}
RLHF = {"token_emb.weight": 0, "layers.0.fn.fused_attn_ff_proj.weight": 0}


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("the pickle was run",)


def torch_file(path, names):
    """A file in the form of torch.save, whose pickle must not be run."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps([Bomb(), names], protocol=2))
        archive.writestr("archive/data/0", b"1234")
    return path


def test_our_own_exports_are_known(tmp_path):
    hf.write(outgoing(), tmp_path / "hf")
    palmscale_safetensors.write(outgoing(), tmp_path / "own.safetensors")
    assert foreign_layout(tmp_path / "hf") == "hf"
    assert foreign_layout(tmp_path / "hf" / "model.safetensors") == "hf"
    assert foreign_layout(tmp_path / "own.safetensors") == "safetensors"


def test_files_of_other_programs_are_known_by_their_names(tmp_path):
    arrays = {name: of_array(np.zeros(1)) for name in RLHF}
    write_safetensors(tmp_path / "a.safetensors", arrays)
    np.savez(tmp_path / "a.npz", **{name: np.zeros(1) for name in PYTORCH})
    assert foreign_layout(tmp_path / "a.safetensors") == "palm_rlhf"
    assert foreign_layout(tmp_path / "a.npz") == "palm_pytorch"
    assert foreign_layout(torch_file(tmp_path / "a.pt", PYTORCH)) == "palm_pytorch"
    assert foreign_layout(torch_file(tmp_path / "b.pt", RLHF)) == "palm_rlhf"
    (tmp_path / "a.msgpack").write_bytes(b"\x81")
    assert foreign_layout(tmp_path / "a.msgpack") == "palm_flax"
    (tmp_path / "t5x").mkdir()
    (tmp_path / "t5x" / "checkpoint").write_bytes(b"\x81")
    assert foreign_layout(tmp_path / "t5x") == "t5x"


def test_what_is_not_known_is_none(tmp_path):
    (tmp_path / "text.txt").write_text("text")
    (tmp_path / "broken.safetensors").write_bytes(b"123")
    torch_file(tmp_path / "other.pt", {"conv.weight": 0})
    (tmp_path / "cut.pt").write_bytes((tmp_path / "other.pt").read_bytes()[:-30])
    for name in ("text.txt", "broken.safetensors", "other.pt", "cut.pt", "absent", "."):
        assert foreign_layout(tmp_path / name) is None, name


def test_a_folder_of_another_architecture_is_told(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(UserError, match="describes LlamaForCausalLM; palmscale imports Cohere2Moe"):
        foreign_layout(tmp_path)


def test_a_file_of_llama_cpp_is_named_though_it_is_not_imported(tmp_path):
    (tmp_path / "any.name").write_bytes(b"GGUF\x03\0\0\0")
    with pytest.raises(UserError, match="any.name is a file of llama.cpp .GGUF."):
        foreign_layout(tmp_path / "any.name")
