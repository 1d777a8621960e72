"""Rows become global arrays: each process reads the rows of its own devices, some batches ahead."""

import queue
import threading
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import NamedSharding

from palmscale.data.stream import Batch, Cursor, Rows, RowStream
from palmscale.errors import UserError

_POLL_SECONDS = 0.1

PREFETCH_BATCHES = 2  # that a host holds ready while the devices process another


class Feed:
    """An endless iterator over (cursor of the batch, Batch of global arrays).

    A background thread reads batches ahead and places them on the devices. An exception in it is
    raised by the next `next()`.

    Args:
        stream: the batches.
        sharding: of a [batch, length] array.
        cursor: of the first batch.
        prefetch: number of batches to read ahead.

    Raises:
        UserError: a batch size of the schedule is not divisible by the sharding.
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
        """Continues from `cursor` and drops the batches that were read ahead."""
        self.close()
        self._start(cursor)

    def close(self) -> None:
        """Stops the background thread. A closed feed can still `seek`."""
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
        # Each thread has its own queue and event, so a late one cannot affect its successor.
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
    """Yields the split's rows in stored order, as batches of global arrays.

    Every batch has weights, which are 0 for the rows that pad the last batch, so that all batches
    use the same compiled program.

    Args:
        split: the stored rows.
        sharding: of a [batch, length] array.
        batch_sequences: rows per batch.
        max_sequences: number of rows to yield; None: all.
        pad_id: token of the padding rows.

    Raises:
        UserError: `batch_sequences` is not divisible by the sharding.
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
    """Returns the shapes and shardings of the batch of `step`; reads one row to determine them."""
    is_packed = "segment" in stream.read(np.zeros(1, np.int64))
    sequences = stream.schedule.sequences(step)
    return batch_shapes(sequences, stream.rows.sequence_length, sharding, is_packed=is_packed)


def batch_shapes(
    sequences: int, sequence_length: int, sharding: NamedSharding, *, is_packed: bool
) -> Batch:
    """Returns the shapes and shardings of a batch of `Feed`.

    `is_packed`: whether rows hold several examples.
    """

    def array(dtype: type) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((sequences, sequence_length), dtype, sharding=sharding)

    if not is_packed:
        return Batch(target_BL=array(np.int32))
    whole, weight = array(np.int32), array(np.float32)
    return Batch(target_BL=whole, segment_BL=whole, position_BL=whole, weight_BL=weight)


def check_divides(sharding: NamedSharding, batch_sequences: int) -> None:
    """Raises UserError unless a batch is divisible by the sharding of its batch dim."""
    names = sharding.spec[0] if len(sharding.spec) else None
    names = (names,) if isinstance(names, str) else tuple(names or ())
    parts = int(np.prod([sharding.mesh.shape[name] for name in names], dtype=np.int64))
    if batch_sequences % parts:
        axes = " x ".join(f"{name}={sharding.mesh.shape[name]}" for name in names)
        raise UserError(
            f"a batch of {batch_sequences} sequences is not divisible by {axes}; use a multiple of"
            f" {parts}, or a smaller mesh."
        )


def _fill(stream, sharding, cursor, ready, stopped) -> None:
    try:
        while not stopped.is_set():
            _put((cursor, _place_batch(stream, sharding, cursor)), ready, stopped)
            cursor = stream.advance(cursor)
    except Exception as error:  # raised again in the thread that asks for the batch
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
    """Returns the batch whose rows `read` reads; each row is read once, on however many devices."""
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
