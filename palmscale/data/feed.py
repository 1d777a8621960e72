"""Rows to global arrays: each process reads the rows of its own devices, some batches ahead."""

import queue
import threading
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import NamedSharding

from palmscale.data.stream import Batch, Cursor, Rows, RowStream
from palmscale.errors import UserError

_POLL_SECONDS = 0.1

PREFETCH_BATCHES = 2  # that a host holds ready, while the devices have one


class Feed:
    """Iterates over (cursor of the batch, Batch of global arrays) from `cursor` on, endlessly.

    A background thread reads and places up to `prefetch` batches ahead. What goes wrong in it is
    raised by the next `next()`. `sharding` is that of a [batch, length] array; every batch size of
    the schedule must divide over it (UserError).
    """

    def __init__(
        self,
        stream: RowStream,
        sharding: NamedSharding,
        cursor: Cursor,
        prefetch: int = PREFETCH_BATCHES,
    ):
        for _, batch_sequences in stream.schedule.stages:
            check_divides(sharding, batch_sequences)
        self._stream, self._sharding, self._prefetch = stream, sharding, max(1, prefetch)
        self._start(cursor)

    def __iter__(self) -> Iterator[tuple[Cursor, Batch]]:
        return self

    def __next__(self) -> tuple[Cursor, Batch]:
        if self._failure is not None:
            raise self._failure
        if self._stopped.is_set():
            raise StopIteration
        item = self._ready.get()
        if isinstance(item, Exception):
            self._failure = item
            raise item
        return item

    def seek(self, cursor: Cursor) -> None:
        """Goes on from `cursor`, dropping what was read ahead."""
        self.close()
        self._start(cursor)

    def close(self) -> None:
        """Ends the background thread. A closed feed may `seek`."""
        self._stopped.set()
        self._thread.join()

    def __enter__(self) -> "Feed":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _start(self, cursor: Cursor) -> None:
        self._failure = None
        self._ready = queue.Queue(maxsize=self._prefetch)
        self._stopped = threading.Event()
        # The thread gets its own queue and event: one that is late to stop cannot touch its
        # successor's.
        arguments = (self._stream, self._sharding, cursor, self._ready, self._stopped)
        self._thread = threading.Thread(target=_fill, args=arguments, name="feed", daemon=True)
        self._thread.start()


def held_out_batches(
    split: Rows,
    *,
    sharding: NamedSharding,
    batch_sequences: int,
    max_sequences: int | None = None,
    pad_id: int = 0,
) -> Iterator[Batch]:
    """Yields the split's first `max_sequences` rows (None: all) in stored order, as global arrays.

    Every batch carries weights, 1 for a row and 0 for the rows that fill up the last one, so that
    all compile to one program.
    """
    check_divides(sharding, batch_sequences)
    rows = split.num_rows if max_sequences is None else min(split.num_rows, max_sequences)
    for first in range(0, rows, batch_sequences):
        numbers = np.arange(first, first + batch_sequences)

        def read(wanted: slice, numbers=numbers) -> dict[str, np.ndarray]:
            stored = numbers[wanted]
            present = split.read(stored[stored < rows])
            present.setdefault("weight", np.ones(present["target"].shape, np.float32))
            missing = len(stored) - len(present["target"])
            fillers = {name: pad_id if name == "target" else 0 for name in present}
            return {
                name: np.pad(value, ((0, missing), (0, 0)), constant_values=fillers[name])
                for name, value in present.items()
            }

        yield _place((batch_sequences, split.sequence_length), sharding, read)


def abstract_batch(stream: RowStream, sharding: NamedSharding, step: int) -> Batch:
    """Returns the shapes of the batch of `step`, with their shardings; reads a row to know them."""
    is_packed = "segment" in stream.read(np.zeros(1, np.int64))
    sequences = stream.schedule.sequences(step)
    return batch_shapes(sequences, stream.rows.sequence_length, sharding, is_packed=is_packed)


def batch_shapes(
    sequences: int, sequence_length: int, sharding: NamedSharding, *, is_packed: bool
) -> Batch:
    """Returns the shapes of a batch as `Feed` gives it; of rows that hold several, if packed."""

    def array(dtype: type) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((sequences, sequence_length), dtype, sharding=sharding)

    if not is_packed:
        return Batch(target_BL=array(np.int32))
    whole, weight = array(np.int32), array(np.float32)
    return Batch(target_BL=whole, segment_BL=whole, position_BL=whole, weight_BL=weight)


def check_divides(sharding: NamedSharding, batch_sequences: int) -> None:
    """Raises UserError unless a batch divides evenly over the sharding's batch dim."""
    names = sharding.spec[0] if len(sharding.spec) else None
    names = (names,) if isinstance(names, str) else tuple(names or ())
    shards = int(np.prod([sharding.mesh.shape[name] for name in names], dtype=np.int64))
    if batch_sequences % shards:
        axes = " x ".join(f"{name}={sharding.mesh.shape[name]}" for name in names)
        raise UserError(
            f"a batch of {batch_sequences} sequences does not divide over {axes} - each device"
            f" needs the same number - use a multiple of {shards}, or a smaller mesh"
        )


def _fill(stream, sharding, cursor, ready, stopped) -> None:
    try:
        while not stopped.is_set():
            _put((cursor, _place_batch(stream, sharding, cursor)), ready, stopped)
            cursor = stream.advance(cursor)
    except Exception as error:  # whatever it is, the thread that asks for the batch must see it
        _put(error, ready, stopped)


def _put(item, ready, stopped) -> None:
    while not stopped.is_set():
        try:
            return ready.put(item, timeout=_POLL_SECONDS)
        except queue.Full:
            continue


def _place_batch(stream: RowStream, sharding: NamedSharding, cursor: Cursor) -> Batch:
    row_numbers = stream.batch_rows(cursor)
    shape = (len(row_numbers), stream.rows.sequence_length)
    return _place(shape, sharding, lambda wanted: stream.read(row_numbers[wanted]))


def _place(
    shape: tuple[int, int],
    sharding: NamedSharding,
    read: Callable[[slice], dict[str, np.ndarray]],
) -> Batch:
    """Returns the batch of which `read` gives some rows; each is read once, however it is split."""
    rows: dict[tuple[int, int], dict[str, np.ndarray]] = {}
    pieces: dict[str, list[jax.Array]] = {}
    for device, (wanted, inside) in sharding.addressable_devices_indices_map(shape).items():
        span = wanted.indices(shape[0])[:2]
        if span not in rows:  # devices along the model axis share their rows
            rows[span] = read(slice(*span))
        for name, value in rows[span].items():
            pieces.setdefault(name, []).append(jax.device_put(value[:, inside], device))
    arrays = {
        f"{name}_BL": jax.make_array_from_single_device_arrays(shape, sharding, parts)
        for name, parts in pieces.items()
    }
    return Batch(**arrays)
