import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palmscale.data import pack as packing
from palmscale.data.pack import decode_row, encode_row, pack, shuffled, token_dtype
from palmscale.errors import CorruptionError

EOD = 1


@given(
    lengths=st.lists(st.integers(0, 40), max_size=30),
    sequence_length=st.integers(1, 17),
    chunk_tokens=st.integers(1, 100),
)
def test_rows_are_the_documents_joined_by_eod_and_cut(lengths, sequence_length, chunk_tokens):
    documents = [
        np.arange(10 * i + 3, 10 * i + 3 + n, dtype=np.uint16) for i, n in enumerate(lengths)
    ]
    stream = [token for document in documents for token in [*document.tolist(), EOD]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "_CHUNK_TOKENS", chunk_tokens)
        blocks = list(pack(documents, eod_id=EOD, sequence_length=sequence_length))
    whole = len(stream) - len(stream) % sequence_length
    assert np.concatenate([b.reshape(-1) for b in blocks] or [[]]).tolist() == stream[:whole]
    assert all(block.shape[1] == sequence_length for block in blocks)


def test_shuffling_keeps_every_document_and_depends_on_the_seed():
    documents = list(range(100))
    first, again, other = (list(shuffled(documents, seed=seed)) for seed in (0, 0, 1))
    assert first == again != other
    assert sorted(first) == sorted(other) == documents != first


def test_ids_are_stored_in_two_bytes_as_far_as_they_fit():
    assert token_dtype(65_536).itemsize == 2
    assert token_dtype(65_537).itemsize == 4


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_any_flipped_bit_is_noticed(dtype):
    tokens = np.arange(5)
    record = encode_row(tokens, 3, np.dtype(dtype))
    assert decode_row(record, 3, np.dtype(dtype)).tolist() == tokens.tolist()
    for bit in range(8 * len(record)):
        flipped = bytearray(record)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptionError):
            decode_row(bytes(flipped), 3, np.dtype(dtype))


def test_a_row_in_another_rows_place_is_noticed():
    record = encode_row(np.arange(5), 3, np.dtype("<u2"))
    with pytest.raises(CorruptionError, match="row 4"):
        decode_row(record, 4, np.dtype("<u2"))
