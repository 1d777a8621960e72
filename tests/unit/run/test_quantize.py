"""A quantized copy of a run is a checkpoint like any other, except that nothing trains from it."""

import dataclasses

import jax
import numpy as np
import pytest

import palmscale
from palmscale.checkpoint.digest import read_manifest
from palmscale.checkpoint.reader import CheckpointReader
from palmscale.checkpoint.steps import StepFolders
from palmscale.checkpoint.warm_start import WarmStart
from palmscale.errors import CorruptionError, UserError
from palmscale.infer import quantized as quantized_weights
from palmscale.infer.quantized import quantized_leaves
from palmscale.run.quantize import quantize

TEXT = "def a(x):\n    return x + 'a'\n"


@pytest.fixture(scope="module", params=["int8", "int4", "fp8"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def copy(kind, result, workdir, tmp_path_factory):
    """The folder of a quantized copy, and what the call returned."""
    folder = tmp_path_factory.mktemp("quantized") / kind
    return folder, quantize(workdir, folder, weights=kind)


def logits(trained):
    ids = trained.vocabulary.encode(TEXT)[None].astype(np.int32)
    name = "decoding" if list(quantized_leaves(trained.params)) else "params"
    return np.asarray(trained.model.apply({name: trained.params}, ids))[..., :259]


def test_the_copy_is_verified_and_keeps_the_run_s_description(copy, kind, workdir):
    folder, written = copy
    assert written.step == 4 and StepFolders(folder / "checkpoints").damages(4) == []
    old, new = (CheckpointReader(w / "checkpoints").read_meta(4) for w in (workdir, folder))
    assert new == {**old, "quantized": kind}
    arrays = read_manifest(folder / "checkpoints/4")["arrays"]["params"]
    types = [array["dtype"] for name, array in arrays.items() if name.endswith("/qvalue")]
    dtype = {"fp8": "float8_e4m3fn"}.get(kind, kind)
    assert types == [dtype] * 7 and arrays["layers/query/scale"]["dtype"] == "float32"
    stored = read_manifest(workdir / "checkpoints/4")["arrays"]["params"]
    assert arrays["final_norm"] == stored["final_norm"]


def test_it_loads_bit_for_bit_as_the_run_loads_when_quantized(copy, kind, workdir):
    stored = palmscale.load(copy[0])
    made = palmscale.load(workdir, quantize=kind)
    assert len(list(quantized_leaves(stored.params))) == 7
    assert jax.tree.structure(stored.params) == jax.tree.structure(made.params)
    jax.tree.map(np.testing.assert_array_equal, stored.params, made.params)
    assert palmscale.load(copy[0], quantize=kind).step == stored.step == 4
    exact = logits(palmscale.load(workdir))
    error = np.sqrt(np.mean((logits(stored) - exact) ** 2)) / exact.std()
    assert error <= {"int8": 0.01, "fp8": 0.05, "int4": 0.2}[kind]


def test_it_generates_and_scores(copy, kind, workdir):
    stored = palmscale.load(copy[0])
    text = stored.generate("def ", max_tokens=12, temperature=0)
    made = palmscale.load(workdir, quantize=kind)
    assert text == made.generate("def ", max_tokens=12, temperature=0)
    (score,), (exact,) = stored.score([TEXT]), palmscale.load(workdir).score([TEXT])
    assert score.bits_per_byte == pytest.approx(exact.bits_per_byte, rel=0.02)


def test_one_parameter_exists_beside_the_quantized_ones(workdir, monkeypatch):
    def live_bytes():
        return sum(array.nbytes for array in jax.live_arrays()) - before

    convert, peaks = quantized_weights.quantize_leaf, []

    def measured(*args, **options):
        new = jax.block_until_ready(convert(*args, **options))
        peaks.append(live_bytes())
        return new

    monkeypatch.setattr("palmscale.run.stored_weights.quantize_leaf", measured)
    before = sum(array.nbytes for array in jax.live_arrays())
    trained = palmscale.load(workdir, quantize="int8")
    exact = palmscale.load(workdir).params
    largest = max(leaf.nbytes for leaf in jax.tree.leaves(exact))
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(trained.params))
    assert len(peaks) == 10 and max(peaks) <= held + largest


def test_nothing_trains_or_evaluates_from_it(copy, kind, small_run, tmp_path):
    folder = copy[0]
    message = f"the weights in .* are {kind}: they generate, score and serve, and cannot be"
    with pytest.raises(UserError, match=message):
        palmscale.train(small_run, folder)
    with pytest.raises(UserError, match=message):
        palmscale.evaluate(small_run, folder)
    warm = dataclasses.replace(small_run, warm_start=WarmStart(workdir=str(folder)))
    with pytest.raises(UserError, match=message):
        palmscale.train(warm, tmp_path / "warm")


def test_what_is_wrong_is_said_in_one_line(copy, kind, workdir, tmp_path):
    folder = copy[0]
    with pytest.raises(UserError, match=f"{folder} has checkpoints already; choose a folder"):
        quantize(workdir, folder)
    with pytest.raises(UserError, match=f"the weights in .* are {kind} already; copy the folder"):
        quantize(folder, tmp_path / "twice", weights=kind)
    other = "fp8" if kind == "int8" else "int8"
    with pytest.raises(UserError, match=f"weights are {kind} and cannot be quantized to {other}"):
        palmscale.load(folder, quantize=other)
    with pytest.raises(UserError, match="to 'int2'; use one of int8, int4, fp8"):
        palmscale.load(workdir, quantize="int2")


def test_a_flipped_bit_in_it_is_found(copy, workdir, tmp_path):
    folder = tmp_path / "damaged"
    quantize(workdir, folder)
    file = max((folder / "checkpoints/4/params").rglob("*"), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CorruptionError, match="is damaged: its SHA-256 has changed"):
        palmscale.load(folder)
