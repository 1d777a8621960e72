"""Documents to rows: shuffle, join with [eod], split at the sequence length; a row's record."""

import zlib
from collections.abc import Iterable, Iterator

import numpy as np

from palmscale.data.permutation import permute
from palmscale.errors import CorruptionError

_CRC_BYTES = 4
_CHUNK_TOKENS = 1 << 22


def token_dtype(vocabulary_size: int) -> np.dtype:
    """Returns the narrowest type that stores every id: uint16 up to 65,536 ids, else uint32."""
    return np.dtype("<u2") if vocabulary_size <= 1 << 16 else np.dtype("<u4")


def shuffled(documents: list, *, seed: int) -> Iterator:
    """Yields the documents in an order that depends on the seed and their number alone.

    Packing puts neighbors into one row, so documents are shuffled before it: rows alone would not
    do.
    """
    order = permute(np.arange(len(documents)), size=len(documents), key=f"documents:{seed}")
    return (documents[i] for i in order)


def pack(
    documents: Iterable[np.ndarray], *, eod_id: int, sequence_length: int
) -> Iterator[np.ndarray]:
    """Yields blocks [n, sequence_length] of the documents joined by `eod_id`, without padding.

    An eod ends every document, also the last. What does not fill a last row is dropped: the caller
    counts it as the tokens given less the tokens got.
    """
    parts, held = [], 0
    for document in documents:
        parts += [document, np.array([eod_id], dtype=document.dtype)]
        held += len(document) + 1
        if held >= max(_CHUNK_TOKENS, sequence_length):
            joined = np.concatenate(parts)
            whole = held - held % sequence_length
            yield joined[:whole].reshape(-1, sequence_length)
            parts, held = [joined[whole:]], held - whole
    if held >= sequence_length:
        whole = held - held % sequence_length
        yield np.concatenate(parts)[:whole].reshape(-1, sequence_length)


def encode_row(tokens: np.ndarray, row: int, dtype: np.dtype) -> bytes:
    """Returns the row's record: its tokens as `dtype`, then a crc32 over the row number and them.

    The number is in the sum so that a row that took another's place is noticed too.
    """
    payload = tokens.astype(dtype).tobytes()
    return payload + _crc(payload, row)


def decode_row(record: bytes, row: int, dtype: np.dtype) -> np.ndarray:
    """Returns the tokens of `encode_row`'s record; CorruptionError if they are not this row's."""
    payload = record[:-_CRC_BYTES]
    if record[-_CRC_BYTES:] != _crc(payload, row):
        raise CorruptionError(f"row {row} differs from its checksum")
    return np.frombuffer(payload, dtype=dtype)


def _crc(payload: bytes, row: int) -> bytes:
    return zlib.crc32(payload, zlib.crc32(row.to_bytes(8, "little"))).to_bytes(_CRC_BYTES, "little")
