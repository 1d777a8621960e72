"""Checkpoints of several real processes: whole, verified, and the same for any number of them."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys

import forked
import pytest

# One of several processes. `act` gets the store, the function that makes a state of a step, and the
# abstract state, and returns what the test is to know.
PROCESS = """
import json, os, sys, threading
index, count, data, model = map(int, sys.argv[1:5])
workdir, port = sys.argv[5:7]
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_num_cpu_devices", data * model // count)
if count > 1:
    jax.distributed.initialize(f"localhost:{port}", count, index, heartbeat_timeout_seconds=10)
from jax.sharding import NamedSharding, PartitionSpec as P
from palmscale.checkpoint import digest
from palmscale.checkpoint.lease import Lease
from palmscale.checkpoint.policy import KeepPolicy
from palmscale.checkpoint.store import CheckpointStore
from palmscale.cluster.agree import Peers

mesh = jax.make_mesh((data, model), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
TREE = {"params": {"w": ((24, 16), "float32", P("data", "model")),
                   "s": ((16,), "bfloat16", P("model")),
                   "copied": ((16384,), "float32", P())},
        "optimizer": {"m": ((24, 16), "float32", P("data", "model")), "count": ((), "int32", P())}}

def value(shape, dtype, step):
    numbers = np.random.default_rng(step).integers(0, 99, shape)
    return np.asarray(numbers + step).astype(jnp.dtype(dtype))

def each(make):
    return {item: {name: make(*leaf) for name, leaf in tree.items()} for item, tree in TREE.items()}

def placed(shape, dtype, spec, step):
    whole = value(shape, dtype, step)
    sharding = NamedSharding(mesh, spec)
    return jax.make_array_from_callback(shape, sharding, lambda index: whole[index])

def state(step):
    return each(lambda shape, dtype, spec: placed(shape, dtype, spec, step))

def save(store, step, state):
    store.save(step, params=state["params"], optimizer_state=state["optimizer"],
               cursor={"step": step}, meta={"processes": count})

def restore(store):
    abstract = each(lambda shape, dtype, spec: jax.ShapeDtypeStruct(
        shape, jnp.dtype(dtype), sharding=NamedSharding(mesh, spec)))
    found = store.restore(abstract_params=abstract["params"],
                          abstract_optimizer_state=abstract["optimizer"])
    trees = {"params": found.params, "optimizer": found.optimizer_state}
    shards = 0
    for item, tree in TREE.items():
        for name, (shape, dtype, spec) in tree.items():
            array, whole = trees[item][name], value(shape, dtype, found.step)
            assert array.dtype == dtype and array.sharding.spec == spec
            for shard in array.addressable_shards:
                np.testing.assert_array_equal(np.asarray(shard.data), whole[shard.index])
                shards += 1
    return {"step": found.step, "cursor": found.cursor, "meta": found.meta, "shards": shards}

# Where XLA's programs are started from.
from jax._src.interpreters import pxla
threads, call = set(), pxla.ExecuteReplicated.__call__
def noted(self, *arguments):
    threads.add(threading.current_thread().name)
    return call(self, *arguments)
pxla.ExecuteReplicated.__call__ = noted

peers = Peers([f"host{i}" for i in range(count)], index=index)
with Lease(workdir, process_index=index) as lease:
    with CheckpointStore(workdir + "/checkpoints", keep=KeepPolicy(latest=9), lease=lease,
                         peers=peers, timeout_seconds=30) as store:
        told = act(store)
print("told:" + json.dumps(told), flush=True)
if count > 1:
    jax.distributed.shutdown()
"""

SAVE = """
def act(store):
    double = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 2, tree), donate_argnums=0)
    for step in (10, 20):
        arrays = state(step)
        save(store, step, arrays)
        jax.block_until_ready(double(arrays))  # a collective-free step, in the donated arrays
    store.wait()
    return {"threads": sorted(threads), "steps": store.verified_steps()}
"""
RESTORE = "def act(store): return restore(store)"
# The second process fails to write; then all goes well again.
FAIL = """
def act(store):
    right = digest.file_digests
    def failing(*arguments, **keywords):
        raise OSError(28, "No space left on device")
    told = {"restored": restore(store)}
    if index == 1:
        digest.file_digests = failing
    save(store, 30, state(30))
    try:
        store.wait()
    except RuntimeError as error:
        told["error"] = str(error)
    digest.file_digests = right
    told["after failure"] = store.verified_steps()
    save(store, 40, state(40))
    store.wait()
    told["after success"] = store.verified_steps()
    return told
"""
# The disk fills up after process 0 has looked for room.
FILL = """
import time
from palmscale.checkpoint.steps import StepFolders
def act(store):
    save(store, 10, state(10))
    store.wait()
    filler, look = workdir + "/checkpoints/filler", StepFolders.check_room
    def fill(self, num_bytes):
        import shutil
        with open(filler, "wb") as file:
            file.write(bytes(shutil.disk_usage(workdir + "/checkpoints").free - 20000))
    StepFolders.check_room = fill
    begun = time.monotonic()
    save(store, 20, state(20))
    told = {}
    try:
        store.wait()
    except RuntimeError as error:
        told["error"] = str(error)
    told["seconds"] = time.monotonic() - begun
    told["left"] = restore(store)["step"]  # waits for process 0, which cleans up
    StepFolders.check_room = look
    if index == 0:
        told["folders"] = sorted(os.listdir(workdir + "/checkpoints"))
        os.unlink(filler)
    save(store, 30, state(30))
    store.wait()
    return told | {"then": restore(store)["step"]}
"""


def run(act, workdir, processes, mesh):
    """What each of the processes told, and what they said on standard error."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    started = []
    try:
        for index in range(processes):
            arguments = [index, processes, *mesh, workdir, port]
            command = [sys.executable, "-c", act + PROCESS, *map(str, arguments)]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            # Only process 0 would find what it compiled before, and arrive too early.
            environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "0"}
            started.append(forked.Popen(command, env=environment, **pipes))
        outcomes = [process.communicate(timeout=100) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, err) in zip(started, outcomes, strict=True):
        assert process.returncode == 0, err[-3000:]
    told = [json.loads(out.rpartition("told:")[2]) for out, _ in outcomes]
    return told, [err for _, err in outcomes]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The workdir of steps 10 and 20 that four processes saved on a 2 x 4 mesh, and what they told.

    Not to be written to.
    """
    workdir = tmp_path_factory.mktemp("saved")
    told, _ = run(SAVE, workdir, 4, (2, 4))
    return workdir, told


def test_four_processes_save_one_verified_checkpoint(saved):
    _, told = saved
    assert [process["steps"] for process in told] == [[10, 20]] * 4


def test_nothing_is_computed_in_the_thread_that_saves(saved):
    _, told = saved
    assert all(process["threads"] == ["MainThread"] for process in told)


def test_every_process_writes_its_part_of_what_all_hold_and_the_manifest_names_all(saved):
    folder = saved[0] / "checkpoints/20"
    files = json.loads((folder / "MANIFEST.json").read_text())["files"]
    on_disk = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert files.keys() == on_disk - {"MANIFEST.json", "VERIFIED"}
    written = dict.fromkeys(range(4), 0)
    for name, file in files.items():
        if owner := re.search(r"params/ocdbt\.process_(\d)/d/", name):
            written[int(owner[1])] += file["bytes"]
    assert min(written.values()) > 16384 and max(written.values()) < 1.5 * min(written.values())


@pytest.mark.parametrize(("processes", "mesh"), [(1, (8, 1)), (2, (1, 4)), (3, (3, 2))])
def test_one_two_and_three_processes_restore_it_bit_for_bit(processes, mesh, saved, tmp_path):
    workdir = shutil.copytree(saved[0], tmp_path / "run")
    told, _ = run(RESTORE, workdir, processes, mesh)
    assert [(t["step"], t["cursor"], t["meta"]) for t in told] == (
        [(20, {"step": 20}, {"processes": 4})] * processes
    )
    # Five arrays on each device.
    assert [t["shards"] for t in told] == [5 * mesh[0] * mesh[1] // processes] * processes


def test_damage_that_one_finds_makes_all_fall_back_and_a_save_fails_on_all_or_none(
    saved, flip, tmp_path
):
    workdir = shutil.copytree(saved[0], tmp_path / "run")
    folder = workdir / "checkpoints/20"
    largest = max(folder.rglob("ocdbt.process_3/d/*"), key=lambda path: path.stat().st_size)
    flip(largest)
    told, said = run(FAIL, workdir, 2, (2, 2))
    assert [t["restored"]["step"] for t in told] == [10, 10]
    assert (folder / "CORRUPT").exists() or not folder.exists()
    assert f"{largest} is damaged" in said[0] and "step 20 is not used" in said[0]
    assert "is damaged" not in said[1]  # once is enough
    message = (
        "the checkpoint of step 30 was not saved: [Errno 28] No space left on device"
        " (process 1 on host1)"
    )
    assert [t["error"] for t in told] == [message] * 2
    assert [t["after failure"] for t in told] == [[10]] * 2
    assert [t["after success"] for t in told] == [[10, 40]] * 2
    assert not (workdir / "checkpoints/30").exists() and not folder.exists()


def test_a_disk_that_fills_up_fails_the_save_on_all_and_they_go_on(small_disk, tmp_path):
    small_disk(tmp_path / "run/checkpoints", 2 << 20)
    told, _ = run(FILL, tmp_path / "run", 2, (2, 2))
    for process in told:
        assert "step 20 was not saved" in process["error"] and process["seconds"] < 30
        assert (process["left"], process["then"]) == (10, 30)
    assert told[0]["folders"] == ["10", "filler"]
