import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palmscale.data.pack import (
    decode_rows,
    encode_rows,
    fields_of,
    pack_examples,
    position_of,
    token_dtype,
)
from palmscale.errors import CorruptionError, UserError

PAD = 0
FIELDS = fields_of("segments", 259)


@given(
    examples=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), max_size=100),
    sequence_length=st.integers(1, 32),
)
def test_every_example_is_in_one_row_whole_or_counted(examples, sequence_length):
    tokens = [np.arange(1000 * i + 1, 1000 * i + 1 + n) for i, (n, _) in enumerate(examples)]
    prompts = [min(prompt, n - 1) for n, prompt in examples]
    packed = pack_examples(tokens, prompts, sequence_length=sequence_length, pad_id=PAD)
    kept = [i for i, prompt in enumerate(prompts) if prompt < sequence_length]
    assert packed.dropped == len(examples) - len(kept)
    assert packed.truncated == sum(len(tokens[i]) > sequence_length for i in kept)
    found = {}
    for target, segment, weight in zip(packed.target, packed.segment, packed.weight):
        assert ((segment > 0) == (target != PAD)).all() and (segment[weight > 0] > 0).all()
        assert set(segment) - {0} == set(range(1, segment.max() + 1))
        for number in range(1, segment.max() + 1):
            here = target[segment == number].tolist()
            found[here[0] // 1000] = here, weight[segment == number].tolist()
    assert sorted(found) == kept
    for i, (here, weight) in found.items():
        assert here == tokens[i][:sequence_length].tolist()
        assert weight == [int(place >= prompts[i]) for place in range(len(here))]


def test_rows_are_filled_before_new_ones_are_begun():
    packed = pack_examples([np.ones(n) for n in (6, 7, 4, 3, 10)], [0] * 5, sequence_length=10,
                           pad_id=PAD)  # fmt: skip
    assert len(packed.target) == 3 and (packed.segment > 0).all()


def test_a_position_restarts_in_each_segment():
    segment = np.array([[1, 1, 1, 2, 2, 0], [1, 2, 3, 3, 3, 3]])
    assert position_of(segment).tolist() == [[0, 1, 2, 0, 1, 0], [0, 0, 0, 1, 2, 3]]


def test_ids_are_stored_in_two_bytes_as_far_as_they_fit():
    assert token_dtype(65_536).itemsize == 2
    assert token_dtype(65_537).itemsize == 4


def test_an_unknown_packing_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="Data.packing='dense'.*'concatenate' or 'segments'"):
        fields_of("dense", 259)


@pytest.mark.parametrize("fields", [fields_of("concatenate", 259), fields_of("concatenate", 10**6),
                                    FIELDS])  # fmt: skip
def test_any_flipped_bit_is_noticed(fields):
    values = [np.arange(5).astype(dtype) for _, dtype in fields]
    *_, record = encode_rows([np.stack([value] * 4) for value in values], 7)
    decoded = decode_rows([record, record], [3, 3], 7, fields)
    assert {name: rows.tolist() for name, rows in decoded.items()} == {
        name: [[0, 1, 2, 3, 4]] * 2 for name, _ in fields
    }
    for bit in range(8 * len(record)):
        flipped = bytearray(record)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptionError, match="row 3"):
            decode_rows([record, bytes(flipped)], [3, 3], 7, fields)


def test_a_row_in_another_rows_or_shards_place_is_noticed():
    *_, record = encode_rows([np.arange(20).reshape(4, 5).astype("<u2")], 7)
    for shard, place in ((7, 4), (8, 3)):
        with pytest.raises(CorruptionError, match=f"row {place}"):
            decode_rows([record], [place], shard, FIELDS)
