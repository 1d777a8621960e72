"""Packing documents into rows, and the record of a row on disk.

Pretraining rows are documents joined with [eod] and split at the sequence length, without padding.
Fine-tuning rows are whole examples side by side, each its own segment, and padding.
"""

import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from palmscale.errors import CorruptionError, UserError

CONCATENATE, SEGMENTS = "concatenate", "segments"
PACKINGS = (CONCATENATE, SEGMENTS)
_CRC_BYTES = 4
_RESIDUE = 0x2144DF1C  # the crc32 of any data followed by its own crc32, for any start value
_OPEN_ROWS = 64  # rows that may still take an example; more would hardly reduce padding

Fields = tuple[tuple[str, np.dtype], ...]  # name and type of each value of a record, in order


class Packed(NamedTuple):
    """Rows of whole examples, [n, L] each; and how many examples were truncated or dropped."""

    target: np.ndarray
    segment: np.ndarray  # 1, 2, ... within a row; 0 is padding
    weight: np.ndarray  # 1 for tokens with loss, 0 for others
    truncated: int
    dropped: int


def token_dtype(vocabulary_size: int) -> np.dtype:
    """Returns the narrowest type for all ids: uint16 for up to 65,536 ids, uint32 above."""
    return np.dtype("<u2") if vocabulary_size <= 1 << 16 else np.dtype("<u4")


def fields_of(packing: str, vocabulary_size: int) -> Fields:
    """Returns the fields of the records of rows with this packing.

    Raises:
        UserError: the packing is unknown.
    """
    target = ("target", token_dtype(vocabulary_size))
    if packing == CONCATENATE:
        return (target,)
    if packing == SEGMENTS:
        return target, ("segment", np.dtype("<u2")), ("weight", np.dtype("u1"))
    raise UserError(f"Data.packing={packing!r} is unknown; use {' or '.join(map(repr, PACKINGS))}.")


def pack_examples(
    examples: Sequence[np.ndarray],
    prompt_tokens: Sequence[int],
    *,
    sequence_length: int,
    pad_id: int,
) -> Packed:
    """Returns the examples packed into rows by first fit.

    An example longer than a row is truncated. An example whose prompt fills a row would have no
    loss and is dropped.

    Args:
        examples: tokens [n] of each, eod included.
        prompt_tokens: of each example, the number of first tokens without loss.
        sequence_length: tokens per row.
        pad_id: fills the rest of a row.
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


def encode_rows(columns: Sequence[np.ndarray], file_number: int) -> Iterator[bytes]:
    """Yields the record of each row of a file: the values [n, L] of its fields, then their crc32.

    The checksum covers the file's number and the row's position in it, so it also detects a row
    that was swapped with another.
    """
    for position, values in enumerate(zip(*columns)):
        payload = b"".join(values)
        # The crc of the position is the start value, which saves a copy of the payload.
        crc = zlib.crc32(payload, _crc_of_position(file_number, position))
        yield payload + crc.to_bytes(_CRC_BYTES, "little")


def decode_rows(
    records: Sequence[bytes], positions: Sequence[int], file_number: int, fields: Fields
) -> dict[str, np.ndarray]:
    """Returns the values [n, L] by field that `encode_rows` stored in the records.

    Raises:
        CorruptionError: a record differs from its checksum; names the first such row.
    """
    for record, position in zip(records, positions):
        if zlib.crc32(record, _crc_of_position(file_number, position)) != _RESIDUE:
            raise CorruptionError(f"row {position} differs from its checksum")
    width = sum(dtype.itemsize for _, dtype in fields)
    length = (len(records[0]) - _CRC_BYTES) // width
    layout = np.dtype([(name, dtype, length) for name, dtype in fields] + [("crc", "<u4")])
    joined = np.frombuffer(b"".join(records), layout)
    return {name: joined[name] for name, _ in fields}


def position_of(segment_BL: np.ndarray) -> np.ndarray:
    """Returns each token's position in its segment, [B, L] int32."""
    position_L = np.arange(segment_BL.shape[1], dtype=np.int32)
    is_first_BL = np.diff(segment_BL.astype(np.int32), axis=1, prepend=-1) != 0
    return position_L - np.maximum.accumulate(np.where(is_first_BL, position_L, 0), axis=1)


def _crc_of_position(file_number: int, position: int) -> int:
    return zlib.crc32((file_number << 64 | position).to_bytes(16, "little"))
