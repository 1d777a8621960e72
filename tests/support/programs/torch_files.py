"""Reads and writes files of PyTorch with torch installed: run by tests/e2e/test_torch_files.py.

python torch_files.py FOLDER      an empty folder; prints one line for each check
"""

import collections
import os
import pathlib
import pickle
import sys

import ml_dtypes
import numpy as np
import original_states
import torch

from palmscale.errors import UserError
from palmscale.interop import palm_rlhf
from palmscale.interop.file_layout import export_to_file
from palmscale.interop.layouts import Options, Outgoing
from palmscale.interop.tensor_files import read_tensors, write_tensors


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("made",)


def refused(path: pathlib.Path, *words: str) -> None:
    try:
        read_tensors(path)
    except UserError as error:
        told = str(error)
    else:
        raise AssertionError(f"{path} was read")
    assert "\n" not in told and all(word in told for word in words), told
    print("refused:", told)


def state_dict() -> dict[str, torch.Tensor]:
    state = {n: torch.as_tensor(a) for n, a in original_states.palm_rlhf("odd").items()}
    state["to_logits.weight"] = state["token_emb.weight"]  # tied, as in the original
    return state


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    os.chdir(folder)
    original = pathlib.Path("original.pt")
    torch.save(collections.OrderedDict(state_dict()), original)
    (found,) = palm_rlhf.read(original, Options(norm_scale_offset=0.0, final_norm="scaled"))
    again = folder / "again.pt"
    outgoing = dict(model=found.model, params=found.params, vocabulary=None, context_length=1)
    write = export_to_file(palm_rlhf.exported).write
    write(Outgoing(**outgoing, dtype="float32"), again)
    loaded = torch.load(again, weights_only=True)
    assert list(loaded) == list(state_dict())
    for name, tensor in state_dict().items():
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor), name
    storages = {loaded[n].data_ptr() for n in ("token_emb.weight", "to_logits.weight")}
    assert len(storages) == 1 and again.stat().st_size < 1.05 * original.stat().st_size
    print("came back: names, dtypes, bits and the tied table")

    half = {"a": torch.arange(6).to(torch.bfloat16).reshape(2, 3), "b": torch.ones(2).half()}
    torch.save(half, "half.pt")
    tensors = read_tensors(pathlib.Path("half.pt"))
    assert (tensors["a"].dtype, tensors["b"].dtype) == (ml_dtypes.bfloat16, np.float16)
    np.testing.assert_array_equal(tensors["a"].read(slice(1, 2)), half["a"][1:2].float().numpy())
    write_tensors(pathlib.Path("half_again.pt"), tensors)
    assert all(map(torch.equal, torch.load("half_again.pt").values(), half.values()))
    torch.save({"state_dict": half, "step": 7}, "nested.pt")
    assert list(read_tensors(pathlib.Path("nested.pt"))) == ["a", "b"]
    torch.save(half, "old.pt", _use_new_zipfile_serialization=False)
    assert list(read_tensors(pathlib.Path("old.pt"))) == ["a", "b"]
    print("bfloat16, nested and old files were read")

    for content in (Bomb(), {"a": torch.zeros(2), "more": Bomb()}):
        torch.save(content, "bomb.pt")
        refused(pathlib.Path("bomb.pt"), "bomb.pt holds more than tensors", "could run code")
    pathlib.Path("raw.bin").write_bytes(pickle.dumps(Bomb()))
    refused(pathlib.Path("raw.bin"), "raw.bin")
    assert not pathlib.Path("made").exists()
    torch.save([1, 2], "list.pt")
    refused(pathlib.Path("list.pt"), "holds no state dict")
    whole = original.read_bytes()
    for share in (0.0, 0.3, 0.99):
        pathlib.Path("cut.pt").write_bytes(whole[: int(share * len(whole))])
        refused(pathlib.Path("cut.pt"), "is not whole")
    np.savez("other.npz", a=np.zeros(2))
    os.rename("other.npz", "other.pt")
    refused(pathlib.Path("other.pt"), "is not a file of torch.save")


if __name__ == "__main__":
    main()
