"""Rows to global arrays: each process reads the rows of its own devices, some batches ahead."""

import queue
import threading
import time
from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import NamedSharding

from palmscale.data.stream import Batch, Cursor, Rows, RowStream
from palmscale.errors import UserError

_POLL_SECONDS = 0.1


class Feed:
    """Iterates over (cursor of the batch, Batch of global arrays) from `cursor` on, endlessly.

    A background thread reads and places up to `prefetch` batches ahead. What goes wrong in it is
    raised by the next `next()`. `wait_seconds` adds up how long the caller waited. `sharding` is
    that of a [batch, length] array; every batch size of the schedule must divide over it
    (UserError).
    """

    def __init__(
        self, stream: RowStream, sharding: NamedSharding, cursor: Cursor, prefetch: int = 2
    ):
        for _, batch_sequences in stream.schedule.stages:
            check_divides(sharding, batch_sequences)
        self.wait_seconds = 0.0
        self._stream, self._sharding, self._prefetch = stream, sharding, max(1, prefetch)
        self._start(cursor)

    def __iter__(self) -> Iterator[tuple[Cursor, Batch]]:
        return self

    def __next__(self) -> tuple[Cursor, Batch]:
        if self._failure is not None:
            raise self._failure
        if self._stopped.is_set():
            raise StopIteration
        start = time.perf_counter()
        item = self._ready.get()
        self.wait_seconds += time.perf_counter() - start
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

        def target(wanted, inside, numbers=numbers):
            stored = numbers[wanted]
            row = split.read(stored[stored < rows])
            filler = np.full((len(stored) - len(row), row.shape[1]), pad_id, np.int32)
            return np.concatenate([row, filler])[:, inside]

        def weight(wanted, inside, numbers=numbers):
            present = (numbers[wanted] < rows).astype(np.float32)
            width = len(range(*inside.indices(split.sequence_length)))
            return np.repeat(present[:, None], width, axis=1)

        shape = (batch_sequences, split.sequence_length)
        yield Batch(
            target_BL=_place(shape, sharding, target), weight_BL=_place(shape, sharding, weight)
        )


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
    read: dict[tuple[int, int], np.ndarray] = {}  # devices along the model axis share their rows

    def target(wanted: slice, inside: slice) -> np.ndarray:
        span = wanted.indices(len(row_numbers))[:2]
        if span not in read:
            read[span] = stream.read(row_numbers[wanted])
        return read[span][:, inside]

    shape = (len(row_numbers), stream.split.sequence_length)
    return Batch(target_BL=_place(shape, sharding, target))


def _place(shape: tuple[int, int], sharding: NamedSharding, values) -> jax.Array:
    return jax.make_array_from_callback(shape, sharding, lambda index: values(*index))
