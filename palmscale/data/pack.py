"""Documents to rows, and a row's record on disk.

Pretraining rows are documents joined with [eod] and split at the sequence length: no padding.
Fine-tuning rows are whole examples side by side, each its own segment, the rest padded.
"""

import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from palmscale.errors import CorruptionError, UserError

CONCATENATE, SEGMENTS = "concatenate", "segments"
PACKINGS = (CONCATENATE, SEGMENTS)
_CRC_BYTES = 4
_WHOLE = 0x2144DF1C  # the crc32 of anything that its own crc32 follows, wherever it was started
_OPEN_ROWS = 64  # rows that may still take an example: more would fill little better

Fields = tuple[tuple[str, np.dtype], ...]  # what a record holds, in order: name and type


class Packed(NamedTuple):
    """Rows of whole examples, [n, L] each, and how many did not fit as they were."""

    target: np.ndarray
    segment: np.ndarray  # 1, 2, ... within a row; 0 is padding
    weight: np.ndarray  # 1 where there is loss
    truncated: int
    dropped: int


def token_dtype(vocabulary_size: int) -> np.dtype:
    """Returns the narrowest type that stores every id: uint16 up to 65,536 ids, else uint32."""
    return np.dtype("<u2") if vocabulary_size <= 1 << 16 else np.dtype("<u4")


def fields_of(packing: str, vocabulary_size: int) -> Fields:
    """Returns what the records of such rows hold.

    Raises UserError for an unknown packing.
    """
    target = ("target", token_dtype(vocabulary_size))
    if packing == CONCATENATE:
        return (target,)
    if packing == SEGMENTS:
        return target, ("segment", np.dtype("<u2")), ("weight", np.dtype("u1"))
    raise UserError(
        f"PACKING={packing!r} - known are {' and '.join(map(repr, PACKINGS))} - use one of them"
    )


def pack_examples(
    examples: Sequence[np.ndarray],
    prompt_tokens: Sequence[int],
    *,
    sequence_length: int,
    pad_id: int,
) -> Packed:
    """Returns the examples (tokens with eod each) in rows, each in the first open row with room.

    An example longer than a row loses its end; one whose prompt alone fills a row would have no
    loss, and is dropped.
    """
    room = np.zeros(0, np.int64)  # of the last `_OPEN_ROWS` rows
    rows: list[list[int]] = []
    truncated = dropped = 0
    for i, (tokens, prompt) in enumerate(zip(examples, prompt_tokens)):
        if prompt >= sequence_length:
            dropped += 1
            continue
        truncated += len(tokens) > sequence_length
        length = min(len(tokens), sequence_length)
        fits = np.flatnonzero(room >= length)
        if len(fits):
            place = int(fits[0])
        else:
            rows.append([])
            room = np.append(room, sequence_length)[-_OPEN_ROWS:]
            place = len(room) - 1
        rows[len(rows) - len(room) + place].append(i)
        room[place] -= length
    target = np.full((len(rows), sequence_length), pad_id, np.int64)
    segment = np.zeros_like(target)
    weight = np.zeros_like(target)
    for row, members in enumerate(rows):
        start = 0
        for number, i in enumerate(members, 1):
            stop = min(start + len(examples[i]), sequence_length)
            target[row, start:stop] = examples[i][: stop - start]
            segment[row, start:stop] = number
            weight[row, start + prompt_tokens[i] : stop] = 1
            start = stop
    return Packed(target, segment, weight, truncated, dropped)


def encode_rows(columns: Sequence[np.ndarray], shard: int) -> Iterator[bytes]:
    """Yields the record of each row of a shard: its values [n, L] by field, then their crc32.

    The shard's number and the row's place in it are in the sum, so that a row that took another's
    place is noticed too.
    """
    for place, values in enumerate(zip(*columns)):
        payload = b"".join(values)
        # Started from the place, not from 0: one pass over the payload.
        crc = zlib.crc32(payload, _crc_of_place(shard, place))
        yield payload + crc.to_bytes(_CRC_BYTES, "little")


def decode_rows(
    records: Sequence[bytes], places: Sequence[int], shard: int, fields: Fields
) -> dict[str, np.ndarray]:
    """Returns what `encode_rows` was given for each record, [n, L] by field.

    Raises CorruptionError with the first place whose record differs from its checksum.
    """
    for record, place in zip(records, places):
        if zlib.crc32(record, _crc_of_place(shard, place)) != _WHOLE:
            raise CorruptionError(f"row {place} differs from its checksum")
    width = sum(dtype.itemsize for _, dtype in fields)
    length = (len(records[0]) - _CRC_BYTES) // width
    layout = np.dtype([(name, dtype, length) for name, dtype in fields] + [("crc", "<u4")])
    joined = np.frombuffer(b"".join(records), layout)
    return {name: joined[name] for name, _ in fields}


def position_of(segment_BL: np.ndarray) -> np.ndarray:
    """Returns each token's place in its segment, [B, L] int32."""
    place_L = np.arange(segment_BL.shape[1], dtype=np.int32)
    is_first_BL = np.diff(segment_BL.astype(np.int32), axis=1, prepend=-1) != 0
    return place_L - np.maximum.accumulate(np.where(is_first_BL, place_L, 0), axis=1)


def _crc_of_place(shard: int, place: int) -> int:
    return zlib.crc32((shard << 64 | place).to_bytes(16, "little"))
