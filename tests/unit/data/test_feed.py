import json
import socket
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from palmscale.data.feed import Feed, held_out_batches
from palmscale.data.stream import BatchSchedule, Cursor, RowStream, Shuffled
from palmscale.errors import UserError

# Run by two processes with two devices each; each prints what it read and whether it is right.
TWO_PROCESSES = """
import json, sys
import jax, numpy as np
port, process = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(f"localhost:{port}", 2, int(process))
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from palmscale.data.feed import Feed, held_out_batches
from palmscale.data.stream import BatchSchedule, Cursor, RowStream, Shuffled

class Numbers:
    num_rows, sequence_length, reads = 1000, 2, []
    def read(self, rows):
        self.reads.append(len(rows))
        return {"target": np.repeat(np.asarray(rows, np.int32)[:, None], 2, axis=1)}

out = {}
by_process = np.array(jax.devices()).reshape(2, 2)
for name, devices in {"data_over_hosts": by_process, "model_over_hosts": by_process.T}.items():
    split = Numbers(); split.reads = []
    stream = RowStream(rows=Shuffled(split, seed=0), schedule=BatchSchedule(((0, 8),)))
    sharding = NamedSharding(Mesh(devices, ("data", "model")), PartitionSpec("data"))
    with Feed(stream, sharding, Cursor(), prefetch=1) as feed:
        cursor, batch = next(feed)
        reads = list(split.reads[:2])
    want = stream.read(stream.batch_rows(cursor))["target"]
    right = all(np.array_equal(s.data, want[s.index]) for s in batch.target_BL.addressable_shards)
    held = list(held_out_batches(split, sharding=sharding, batch_sequences=8, max_sequences=10))
    shards = [[s for s in b.weight_BL.addressable_shards if s.replica_id == 0] for b in held]
    ones = [int(sum(np.asarray(shard.data).sum() for shard in own)) for own in shards]
    out[name] = {"reads": reads, "right": right, "weights": ones}
print(json.dumps(out))
"""


class Numbers:
    """Rows that consist of their own number; reading can be made slow, or fail from some row on."""

    num_rows, sequence_length = 50, 2

    def __init__(self, seconds=0.0, fails_at=None):
        self.seconds, self.fails_at, self.reads = seconds, fails_at, 0

    def read(self, row_indices):
        time.sleep(self.seconds)
        self.reads += 1
        if self.fails_at is not None and self.reads > self.fails_at:
            raise OSError("the disk is gone")
        return {"target": np.repeat(np.asarray(row_indices, np.int32)[:, None], 2, axis=1)}


@pytest.fixture
def sharding():
    return NamedSharding(
        Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "model")), PartitionSpec("data")
    )


def stream_of(split=None, stages=((0, 4), (3, 8))):
    rows = Shuffled(split or Numbers(), seed=0)
    return RowStream(rows=rows, schedule=BatchSchedule(stages))


def rows_of(stream, cursor):
    return stream.read(stream.batch_rows(cursor))["target"]


def take(feed, count):
    return [next(feed) for _ in range(count)]


def test_batches_are_the_streams_in_order_across_a_change_of_size(sharding):
    stream = stream_of()
    with Feed(stream, sharding, Cursor()) as feed:
        for step, (cursor, batch) in enumerate(take(feed, 6)):
            assert cursor == stream.cursor(step)
            assert np.array_equal(batch.target_BL, rows_of(stream, cursor))
            assert batch.target_BL.sharding == sharding and batch.target_BL.dtype == np.int32
            assert batch.segment_BL is batch.position_BL is batch.weight_BL is None


class Packed(Numbers):
    """The same rows, the last token of each of a segment of its own and without loss."""

    def read(self, row_indices):
        rows = super().read(row_indices)
        shape = rows["target"].shape
        rows["segment"] = np.tile(np.array([1, 2], np.int32), (shape[0], 1))
        rows["position"] = np.zeros(shape, np.int32)
        rows["weight"] = np.tile(np.array([1, 0], np.float32), (shape[0], 1))
        return rows


def test_packed_rows_bring_segments_positions_and_weights(sharding):
    with Feed(stream_of(Packed()), sharding, Cursor()) as feed:
        _, batch = next(feed)
    for array, row in ((batch.segment_BL, [1, 2]), (batch.position_BL, [0, 0])):
        assert np.array_equal(array, [row] * 4) and array.dtype == np.int32
        assert array.sharding == sharding
    assert np.array_equal(batch.weight_BL, [[1, 0]] * 4)
    held = list(held_out_batches(Packed(), sharding=sharding, batch_sequences=4, max_sequences=6))
    assert np.array_equal(held[1].weight_BL, [[1, 0], [1, 0], [0, 0], [0, 0]])
    assert np.array_equal(held[1].segment_BL, [[1, 2], [1, 2], [0, 0], [0, 0]])


def test_seek_goes_anywhere_and_drops_what_was_read_ahead(sharding):
    stream = stream_of()
    with Feed(stream, sharding, Cursor(), prefetch=3) as feed:
        take(feed, 4)
        rewound = stream.skip(stream.cursor(1), 6)
        feed.seek(rewound)
        cursor, batch = next(feed)
        rows = stream.read(np.arange(10, 14))["target"]
        assert cursor == rewound and np.array_equal(batch.target_BL, rows)


def test_prefetching_is_bounded_and_saves_waiting(sharding):
    split = Numbers(seconds=0.05)
    with Feed(stream_of(split), sharding, Cursor(), prefetch=2) as feed:
        take(feed, 4)
        time.sleep(0.5)
        assert split.reads <= 4 + 2 + 1  # two ready, one in hand
        start = time.perf_counter()
        take(feed, 2)
        assert time.perf_counter() - start < 0.05


def test_what_fails_in_the_thread_is_raised_by_next_after_the_good_batches(sharding):
    with Feed(stream_of(Numbers(fails_at=3)), sharding, Cursor()) as feed:
        take(feed, 3)
        for _ in range(2):
            with pytest.raises(OSError, match="the disk is gone"):
                next(feed)


def test_closing_ends_the_thread_and_the_iteration(sharding):
    before = threading.active_count()
    feed = Feed(stream_of(), sharding, Cursor())
    next(feed)
    feed.close()
    feed.close()
    assert threading.active_count() == before and list(feed) == []


def test_a_batch_that_does_not_divide_is_refused_before_anything_is_read():
    mesh = jax.sharding.AbstractMesh((4, 2), ("data", "model"))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    with pytest.raises(UserError, match="6 sequences is not divisible by data=4.*multiple of 4"):
        Feed(stream_of(stages=((0, 4), (5, 6))), sharding, Cursor())


def test_held_out_batches_are_the_first_rows_with_weight_zero_for_filling(sharding):
    batches = list(
        held_out_batches(
            Numbers(), sharding=sharding, batch_sequences=8, max_sequences=20, pad_id=7
        )
    )
    rows, weights = (np.concatenate(a) for a in zip(*[(b.target_BL, b.weight_BL) for b in batches]))
    assert (
        rows.shape == (24, 2)
        and rows[:20, 0].tolist() == list(range(20))
        and (rows[20:] == 7).all()
    )
    assert weights[:20].min() == 1 and weights[20:].max() == 0
    everything = held_out_batches(Numbers(), sharding=sharding, batch_sequences=8)
    assert sum(int(batch.weight_BL[:, 0].sum()) for batch in everything) == Numbers.num_rows


def test_two_processes_read_only_their_own_rows_once_on_any_mesh():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    commands = [[sys.executable, "-c", TWO_PROCESSES, port, str(i)] for i in range(2)]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands
    ]
    outputs = [
        json.loads(process.communicate(timeout=100)[0].splitlines()[-1]) for process in processes
    ]
    for output in outputs:
        # Half the rows each, once for both devices of the model axis.
        assert output["data_over_hosts"]["reads"][0] == 4
        # All rows, half for each local device.
        assert output["model_over_hosts"]["reads"] == [4, 4]
        assert output["data_over_hosts"]["right"] and output["model_over_hosts"]["right"]
    for mesh, whole in {"data_over_hosts": [16, 4], "model_over_hosts": [16, 4]}.items():
        assert np.sum([output[mesh]["weights"] for output in outputs], axis=0).tolist() == whole
