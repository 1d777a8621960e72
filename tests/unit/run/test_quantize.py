"""A quantized copy of a run is a checkpoint like any other, except that nothing trains from it."""

import dataclasses
import os
import shutil
import subprocess
import sys

import eight_devices
import jax
import numpy as np
import pytest
from small_run import MODEL

import palmscale
from palmscale.checkpoint.digest import read_manifest
from palmscale.checkpoint.lease import Lease
from palmscale.checkpoint.reader import CheckpointReader
from palmscale.checkpoint.steps import StepFolders
from palmscale.checkpoint.store import CheckpointStore
from palmscale.checkpoint.warm_start import WarmStart
from palmscale.data.vocabulary import ByteVocabulary
from palmscale.errors import CorruptionError, UserError
from palmscale.infer import quantized as quantized_weights
from palmscale.infer.quantized import quantized_leaves
from palmscale.partition.layout import Layout
from palmscale.partition.mesh import MeshSpec
from palmscale.partition.shardings import unbox
from palmscale.run.identity import describe
from palmscale.run.quantize import quantize

TEXT = "def a(x):\n    return x + 'a'\n"


@pytest.fixture(scope="module")
def copies(result, workdir, tmp_path_factory):
    """The folders of quantized copies by type, and what the calls returned."""
    folder = tmp_path_factory.mktemp("quantized")
    kinds = ("int8", "int4", "fp8")
    return {kind: (folder / kind, quantize(workdir, folder / kind, weights=kind)) for kind in kinds}


@pytest.fixture
def copy(copies):
    """The folder of the copy in int8. Not to be written to."""
    return copies["int8"][0]


def logits(trained):
    ids = trained.vocabulary.encode(TEXT)[None].astype(np.int32)
    name = "decoding" if list(quantized_leaves(trained.params)) else "params"
    return np.asarray(trained.model.apply({name: trained.params}, ids))[..., :259]


@pytest.mark.parametrize("kind", ["int8", "int4", "fp8"])
def test_a_copy_is_verified_and_loads_bit_for_bit_as_the_run_when_quantized(kind, copies, workdir):
    folder, written = copies[kind]
    assert written.step == 4 and StepFolders(folder / "checkpoints").damages(4) == []
    readers = [CheckpointReader(w / "checkpoints") for w in (workdir, folder)]
    old, new = (reader.read_meta(4) for reader in readers)
    digest = readers[0].params_digest(4)
    assert new == {**old, "quantized": kind, "digest": digest}
    assert readers[1].params_digest(4) == digest
    arrays = read_manifest(folder / "checkpoints/4")["arrays"]["params"]
    types = [array["dtype"] for name, array in arrays.items() if name.endswith("/qvalue")]
    dtype = {"fp8": "float8_e4m3fn"}.get(kind, kind)
    assert types == [dtype] * 7 and arrays["layers/query/scale"]["dtype"] == "float32"
    stored = read_manifest(workdir / "checkpoints/4")["arrays"]["params"]
    assert arrays["final_norm"] == stored["final_norm"]
    stored, made = palmscale.load(folder), palmscale.load(workdir, quantize=kind)
    assert len(list(quantized_leaves(stored.params))) == 7
    assert jax.tree.structure(stored.params) == jax.tree.structure(made.params)
    jax.tree.map(np.testing.assert_array_equal, stored.params, made.params)


def test_in_int8_the_logits_are_within_one_percent_of_float32(copy, workdir):
    exact = logits(palmscale.load(workdir))
    error = np.sqrt(np.mean((logits(palmscale.load(copy)) - exact) ** 2)) / exact.std()
    assert 0.001 < error <= 0.01


def test_it_generates_and_scores(copy, workdir):
    stored = palmscale.load(copy)
    text = stored.generate("def ", max_tokens=12, temperature=0)
    made = palmscale.load(workdir, quantize="int8")
    assert text == made.generate("def ", max_tokens=12, temperature=0)
    (score,), (exact,) = stored.score([TEXT]), palmscale.load(workdir).score([TEXT])
    assert score.bits_per_byte == pytest.approx(exact.bits_per_byte, rel=0.02)


def on_a_mesh(folder, workdir):
    """How a stored copy and a run quantized at load lie on 2 x 4 devices, and what one writes."""
    layout, facts = Layout(mesh=MeshSpec(data=2, model=4)), []
    stored = palmscale.load(folder, layout=layout)
    made = palmscale.load(workdir, layout=layout, quantize="int8")
    for trained in (stored, made):
        query = trained.params["layers"]["query"]
        dims = [list(part.sharding.spec) for part in (query.qvalue, query.scale)]
        facts.append((dims, max(shard.data.size for shard in query.qvalue.addressable_shards)))
    return facts, stored.generate("def ", max_tokens=8, temperature=0)


def test_on_a_mesh_it_is_restored_into_its_shardings(copy, workdir):
    facts, text = eight_devices.facts_on_eight_devices(on_a_mesh, str(copy), str(workdir))
    alone = palmscale.load(copy)
    for dims, elements in facts:
        assert dims == [[None, "data", "model", None], [None, None, "model", None]]
        assert elements == alone.params["layers"]["query"].qvalue.size // 8
    assert text == alone.generate("def ", max_tokens=8, temperature=0)


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


def test_nothing_trains_or_evaluates_from_it(copy, small_run, tmp_path):
    message = "the weights in .* are int8: they generate, score and serve, and cannot be"
    with pytest.raises(UserError, match=message):
        palmscale.train(small_run, copy)
    with pytest.raises(UserError, match=message):
        palmscale.evaluate(small_run, copy)
    warm = dataclasses.replace(small_run, warm_start=WarmStart(workdir=str(copy)))
    with pytest.raises(UserError, match=message):
        palmscale.train(warm, tmp_path / "warm")


def test_what_is_wrong_is_said_in_one_line(copy, workdir, tmp_path):
    with pytest.raises(UserError, match=f"{copy} has checkpoints already; choose a folder"):
        quantize(workdir, copy)
    with pytest.raises(UserError, match="the weights in .* are int8 already; copy the folder"):
        quantize(copy, tmp_path / "twice")
    with pytest.raises(UserError, match="weights are int8 and cannot be quantized to fp8"):
        palmscale.load(copy, quantize="fp8")
    with pytest.raises(UserError, match="to 'int2'; use one of int8, int4, fp8"):
        palmscale.load(workdir, quantize="int2")


def test_a_flipped_bit_in_it_is_found(copy, tmp_path):
    folder = shutil.copytree(copy, tmp_path / "damaged")
    file = max((folder / "checkpoints/4/params").rglob("*"), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CorruptionError, match="is damaged: its SHA-256 has changed"):
        palmscale.load(folder)


_PEAK = """
import json, pathlib, sys, threading, time
import jax, palmscale, qwix
import palmscale.run.load
jax.devices()
def resident(): return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096
before = most = resident()
done = threading.Event()
def watch():
    global most
    while not done.wait(0.002):
        most = max(most, resident())
thread = threading.Thread(target=watch, daemon=True)
thread.start()
trained = palmscale.load(sys.argv[1], quantize=sys.argv[2] or None)
done.set(); thread.join()
print(most - before)
"""


@pytest.mark.long
def test_loading_a_larger_model_in_int8_takes_less_memory_than_loading_it(tmp_path):
    model = dataclasses.replace(MODEL, dim=768, depth=12, heads=6, dim_head=128)
    params = unbox(jax.jit(model.init)(jax.random.key(0), np.zeros((1, 1), int))["params"])
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    meta = {
        "identity": {"model": describe(model)},
        "vocabulary": ByteVocabulary().description(),
        "sequence_length": 32,
        "num_params": whole // 4,
        "operative_config": "",
        "mesh": {"replica": 1, "data": 1, "model": 1},
        "versions": {},
    }
    with Lease(tmp_path) as lease, CheckpointStore(tmp_path / "checkpoints", lease=lease) as store:
        store.save(1, params=params, optimizer_state={}, cursor={}, meta=meta)

    def peak(quantize):
        command = [sys.executable, "-c", _PEAK, str(tmp_path), quantize]
        # The flags of the tests compile fast programs that take more memory.
        env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert peak("int8") < peak("") - whole / 2
