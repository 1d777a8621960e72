"""Exports of a small trained run: whole or not there, refused by name, and of averages."""

import dataclasses
import json
import os
import shutil
import signal

import forked
import jax.numpy as jnp
import numpy as np
import pytest

import palmscale
from palmscale.checkpoint.lease import Lease
from palmscale.checkpoint.store import CheckpointStore
from palmscale.errors import CorruptionError, UserError
from palmscale.interop import hf, layouts, palmscale_safetensors
from palmscale.interop.safetensors_file import read_safetensors
from palmscale.run.export import export
from palmscale.run.workdir import checkpoints
from palmscale.trees import named_leaves


def test_parameters_are_written_bit_for_bit(result, workdir, tmp_path):
    written = export(workdir, "safetensors", tmp_path / "a.safetensors")
    assert (written.step, written.checked) == (4, None)
    assert written.bytes == (tmp_path / "a.safetensors").stat().st_size
    found = read_safetensors(tmp_path / "a.safetensors")
    for name, leaf in named_leaves(palmscale.load(workdir).params).items():
        assert np.array_equal(found[name].read(), leaf)


def test_a_step_and_an_average_are_written(result, workdir, tmp_path):
    export(workdir, "safetensors", tmp_path / "2.safetensors", checkpoint=2)
    export(workdir, "safetensors", tmp_path / "mean.safetensors", average=2)
    for file, options in (("2", {"checkpoint": 2}), ("mean", {"average": 2})):
        found = read_safetensors(tmp_path / f"{file}.safetensors")
        for name, leaf in named_leaves(palmscale.load(workdir, **options).params).items():
            assert np.array_equal(found[name].read(), leaf)


def test_the_card_says_where_the_weights_come_from(result, workdir, tmp_path):
    export(
        workdir, "hf", tmp_path / "hf", dtype="bfloat16", license="mit", language="en", check=False
    )
    card = (tmp_path / "hf" / "README.md").read_text()
    digest = checkpoints(workdir).read_meta()["identity"]["data"]["digest"]
    for line in (
        'license: "mit"',
        'language: "en"',
        "| Training step | 4 |",
        f"- rows: `{digest}`",
    ):
        assert line in card.splitlines()
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize("name", ["file", "folder"])
def test_what_exists_is_not_overwritten(name, result, workdir, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("mine")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=f"output=.*{name} exists; choose another"):
        export(workdir, "hf", tmp_path / name)
    assert (tmp_path / "folder" / "mine").read_text() == "mine"


def test_an_empty_folder_is_filled(result, workdir, tmp_path):
    (tmp_path / "hf").mkdir()
    export(workdir, "hf", tmp_path / "hf", check=False)
    assert (tmp_path / "hf" / "config.json").is_file()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(to="onnx"), "no export layout 'onnx'; known: hf"),
        (dict(dtype="int3"), "dtype=int3 is not one of the layout hf; expected float32, bfloat16"),
        (dict(checkpoint=3), "no verified checkpoint 3"),
        (dict(average=7), "average=7 is out of range"),
        (dict(output="gs://bucket/hf"), "must be on a disk of this machine"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(options, said, result, workdir, tmp_path):
    given = {"to": "hf", "output": tmp_path / "hf"} | options
    with pytest.raises(UserError, match=said) as error:
        export(workdir, **given)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def failing(error):
    def write(outgoing, path, **options):
        hf.write(outgoing, path)
        raise error

    return dataclasses.replace(hf.EXPORT, write=write, check=None)


@pytest.mark.parametrize("error", [OSError(28, "No space left"), RuntimeError("broken")])
def test_an_export_that_fails_leaves_nothing(error, result, workdir, tmp_path, monkeypatch):
    monkeypatch.setattr(hf, "EXPORT", failing(error))
    with pytest.raises((UserError, RuntimeError), match="No space left|broken"):
        export(workdir, "hf", tmp_path / "hf")
    assert not list(tmp_path.iterdir())


def test_a_failed_check_leaves_nothing_and_a_passed_one_is_told(
    result, workdir, tmp_path, monkeypatch
):
    def differ(outgoing, path):
        assert (path / "config.json").is_file()
        raise RuntimeError("the logits differ by 1.6")

    monkeypatch.setattr(hf, "EXPORT", dataclasses.replace(hf.EXPORT, check=differ))
    with pytest.raises(RuntimeError, match=r"differ by 1\.6"):
        export(workdir, "hf", tmp_path / "hf")
    assert not list(tmp_path.iterdir())
    assert export(workdir, "hf", tmp_path / "unchecked", check=False).checked is None
    equal = dataclasses.replace(hf.EXPORT, check=lambda *_: "Logits are equal.")
    monkeypatch.setattr(hf, "EXPORT", equal)
    assert export(workdir, "hf", tmp_path / "hf").checked == "Logits are equal."


_KILLED = """
import os, signal, sys
from palmscale.interop import safetensors_file
from palmscale.run.export import export
writes = 0
class Killed:
    def __init__(self, path): self.file = open(path, "wb")
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def write(self, content):
        global writes
        writes += 1
        self.file.write(content)
        self.file.flush()
        if writes == 4:
            os.kill(os.getpid(), signal.SIGKILL)
from palmscale.interop import hf
write = hf.write
hf.EXPORT = type(hf.EXPORT)(dtypes=("float32",), write=lambda *a: write(*a, open_file=Killed))
export(sys.argv[1], "hf", sys.argv[2])
"""


def test_a_kill_leaves_no_folder_that_looks_whole(result, workdir, tmp_path):
    import sys

    line = [sys.executable, "-c", _KILLED, str(workdir), str(tmp_path / "hf")]
    killed = forked.run(line, env=os.environ, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert not (tmp_path / "hf").exists() and (tmp_path / "partial-hf").is_dir()
    export(workdir, "hf", tmp_path / "hf", check=False)
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def saved(workdir, **meta):
    """Saves a step of a module of this file with other meta."""
    model = {"class": f"{__name__}:Own", "dim": 4, "num_tokens": 259, "depth": 1}
    described = {
        "identity": {"model": model},
        "vocabulary": {"kind": "bytes", "digest": ""},
        "sequence_length": 8,
        "num_params": 3,
        "operative_config": "",
        "mesh": {},
        "versions": {},
    }
    with Lease(workdir) as lease, CheckpointStore(workdir / "checkpoints", lease=lease) as store:
        state = dict(params={"a": jnp.ones(3)}, optimizer_state={}, cursor={})
        store.save(1, **state, meta=described | meta)
    return workdir


def test_quantized_weights_are_refused(tmp_path):
    workdir = saved(tmp_path / "run", quantized="int8")
    with pytest.raises(UserError, match="are int8: .* cannot be trained, .* or exported"):
        export(workdir, "safetensors", tmp_path / "a.safetensors")


@pytest.mark.parametrize("to", ["hf", "safetensors"])
def test_a_module_of_the_users_own_is_refused_by_name(to, tmp_path):
    workdir = saved(tmp_path / "run")
    with pytest.raises(UserError, match=f"the layout {to} cannot express the module Own"):
        export(workdir, to, tmp_path / "out", modules=[__name__])


class Own(palmscale.PaLM):
    pass


def test_a_damaged_checkpoint_is_not_exported(result, workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "run")
    files = (tmp_path / "run" / "checkpoints" / "4" / "params").rglob("*")
    file = max((path for path in files if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CorruptionError, match="is damaged: its SHA-256 has changed"):
        export(tmp_path / "run", "safetensors", tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()


def test_the_layouts_are_those_that_the_library_names():
    assert palmscale.export is export and "safetensors" in layouts.EXPORTS
    assert palmscale_safetensors.EXPORT.dtypes == ("float32", "bfloat16")
