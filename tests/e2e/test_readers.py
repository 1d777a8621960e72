"""Real processes, as many as there may be, read one and the same sequence of global batches."""

import hashlib
import json
import socket
import subprocess
import sys

import forked
import memory_source
import numpy as np
import pytest

from palmscale.data.build.builder import build_cache
from palmscale.data.mixture import Mixed
from palmscale.data.pack import SEGMENTS
from palmscale.data.row_cache import RowCache
from palmscale.data.stream import BatchSchedule, RowStream
from palmscale.data.vocabulary import ByteVocabulary

STEPS, DEVICES = 9, 8
STAGES = [(0, {"a": 3, "b": 1}), (50, {"a": 1, "b": 1})]  # of a mixture: it changes, too
SCHEDULE = ((0, 8), (4, 16))
SKIPS = ((20, 45),)
FIELDS = ("target", "segment", "position", "weight")

# One of several processes. Writes what its devices hold of each batch, and the rows it asked for.
READER = f"""
import json, sys
process, processes, model, port, out, *folders = sys.argv[1:]
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", {DEVICES} // int(processes))
if int(processes) > 1:
    jax.distributed.initialize(f"localhost:{{port}}", int(processes), int(process))
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from palmscale.data.feed import Feed
from palmscale.data.mixture import Mixed
from palmscale.data.row_cache import RowCache
from palmscale.data.stream import BatchSchedule, RowStream

splits = {{name: RowCache.open(folder).split("train") for name, folder in zip("ab", folders)}}
stream = RowStream(rows=Mixed(splits, {STAGES}, seed=3), schedule=BatchSchedule({SCHEDULE}))
asked, read = [], stream.read
stream.read = lambda numbers: asked.extend(numbers.tolist()) or read(numbers)
# The devices of a model axis are of different processes.
devices = np.array(jax.devices()).reshape(int(model), -1).T
sharding = NamedSharding(Mesh(devices, ("data", "model")), PartitionSpec("data"))
held = {{}}
with Feed(stream, sharding, stream.cursor(0, skips={SKIPS})) as feed:
    for step in range({STEPS}):
        cursor, batch = next(feed)
        for field in {FIELDS}:
            for shard in getattr(batch, f"{{field}}_BL").addressable_shards:
                held[f"{{step}} {{field}} {{shard.index[0].start or 0}}"] = np.asarray(shard.data)
np.savez(out, **held)
print(json.dumps(asked))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folders of two caches of different documents, packed, so that every field is there."""
    made = [tmp_path_factory.mktemp(name) / "cache" for name in "ab"]
    for seed, folder in enumerate(made):
        build_cache(
            directory=folder,
            corpus=memory_source.corpus(seed=seed, prompts=True, longest=16),
            vocabulary=ByteVocabulary(),
            sequence_length=16,
            seed=0,
            packing=SEGMENTS,
        )
    return made


@pytest.fixture(scope="module")
def stream(folders):
    splits = {name: RowCache.open(path).split("train") for name, path in zip("ab", folders)}
    return RowStream(rows=Mixed(splits, STAGES, seed=3), schedule=BatchSchedule(SCHEDULE))


def numbers_of_steps(stream):
    """The row numbers of each step, in batch order."""
    return [stream.batch_rows(stream.cursor(step, SKIPS)) for step in range(STEPS)]


def digest(arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()


def read_by(processes, model, folders, folder):
    """Digests of the global batches that processes assemble, and the rows each asked for."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    outs = [folder / f"{process}.npz" for process in range(processes)]
    started = []
    for process, out in enumerate(outs):
        arguments = [process, processes, model, port, out, *folders]
        command = [sys.executable, "-c", READER, *map(str, arguments)]
        started.append(forked.Popen(command, stdout=subprocess.PIPE, text=True))
    asked = [json.loads(p.communicate(timeout=100)[0].splitlines()[-1]) for p in started]
    shards = {}
    for out in outs:
        for name, array in np.load(out).items():
            step, field, first = name.split()
            held = shards.setdefault((int(step), field), {})
            assert np.array_equal(held.setdefault(int(first), array), array)
    whole = {key: np.concatenate([held[at] for at in sorted(held)]) for key, held in shards.items()}
    return [digest(whole[step, field] for field in FIELDS) for step in range(STEPS)], asked


@pytest.mark.parametrize(("processes", "model"), [(1, 1), (2, 1), (4, 1), (8, 1), (2, 2)])
def test_global_batches_are_the_streams_for_any_number_of_processes(
    processes, model, folders, stream, tmp_path
):
    digests, asked = read_by(processes, model, folders, tmp_path)
    steps = numbers_of_steps(stream)
    batches = [stream.read(numbers) for numbers in steps]
    assert digests == [digest(batch[field] for field in FIELDS) for batch in batches]
    assert [len(numbers) for numbers in steps] == [8] * 4 + [16] * 5
    # Each asks for the rows of its own devices, once, and for no others; Feed reads ahead of them.
    last = steps[-1][-1]
    shares = [[number for number in own if number <= last] for own in asked]
    assert all(len(own) == 112 * model // processes == len(set(own)) for own in shares)
    assert set().union(*shares) == set(np.concatenate(steps).tolist())
