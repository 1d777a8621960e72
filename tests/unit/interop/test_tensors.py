"""Tensors that are read in parts: each part is that of the same operation on whole arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmscale.errors import UserError
from palmscale.interop import tensors as ts

VALUES = np.arange(4 * 6 * 10, dtype=np.float32).reshape(4, 6, 10)
WHOLE = ts.of_array(VALUES)
INDEX = np.array([3, 0, 5, 2, 2])

CASES = {
    "layer": (ts.layer(WHOLE, 2), VALUES[2]),
    "stack": (ts.stack([ts.layer(WHOLE, n) for n in range(4)]), VALUES),
    "transpose": (ts.transpose(WHOLE), VALUES.T),
    "order": (ts.transpose(WHOLE, 1, 2, 0), VALUES.transpose(1, 2, 0)),
    "merge the first": (ts.merge_dims(WHOLE, 0), VALUES.reshape(24, 10)),
    "merge the last": (ts.merge_dims(WHOLE, 1), VALUES.reshape(4, 60)),
    "split": (ts.split_dim(WHOLE, 2, 5), VALUES.reshape(4, 6, 2, 5)),
    "split the first": (ts.split_dim(WHOLE, 0, 2), VALUES.reshape(2, 2, 6, 10)),
    "cut": (ts.cut(WHOLE, 1, 2, 5), VALUES[:, 2:5]),
    "concatenate": (
        ts.concatenate([WHOLE, ts.cut(WHOLE, 1, 0, 1), WHOLE], 1),
        np.concatenate([VALUES, VALUES[:, :1], VALUES], 1),
    ),
    "take": (ts.take(WHOLE, INDEX, 1), VALUES[:, INDEX]),
    "map": (ts.map_values(WHOLE, lambda x: x + 1), VALUES + 1),
    "cast": (ts.cast(WHOLE, np.float16), VALUES.astype(np.float16)),
    "several": (
        ts.merge_dims(ts.transpose(ts.split_dim(WHOLE, 1, 3), 0, 2, 1, 3), 1),
        VALUES.reshape(4, 2, 3, 10).transpose(0, 2, 1, 3).reshape(4, 6, 10),
    ),
}


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_part_is_that_of_the_whole(case, data):
    tensor, expected = CASES[case]
    assert tensor.shape == expected.shape and tensor.dtype == expected.dtype
    part = []
    for size in tensor.shape:
        start = data.draw(st.integers(0, size))
        part.append(slice(start, data.draw(st.integers(start, size))))
    np.testing.assert_array_equal(tensor.read(*part), expected[tuple(part)])


@pytest.mark.parametrize("block_bytes", [1, 40, 100, 240, 10_000])
def test_blocks_are_the_whole_in_order(block_bytes):
    blocks = list(ts.transpose(WHOLE, 2, 0, 1).blocks(block_bytes))
    flat = np.concatenate([values.reshape(-1) for _, values in blocks])
    np.testing.assert_array_equal(flat, VALUES.transpose(2, 0, 1).reshape(-1))
    assert all(values.nbytes <= max(block_bytes, 4) for _, values in blocks)


def test_a_scalar_is_one_block():
    ((part, values),) = ts.of_array(np.float32(3).reshape(())).blocks()
    assert part == () and values == 3


def test_layers_that_differ_are_refused():
    with pytest.raises(UserError, match="the layers differ"):
        ts.stack([ts.layer(WHOLE, 0), ts.of_array(VALUES[0].astype(np.float16))])


def test_missing_unknown_and_misshapen_names_are_listed_with_shapes():
    found = {"a": ts.of_array(np.zeros((2, 3))), "b": ts.of_array(np.zeros(4))}
    ts.check_names(found, {"a": (2, 3), "b": (4,)}, "toy")
    with pytest.raises(UserError) as refused:
        ts.check_names(found, {"a": (3, 2), "c": (5, 6)}, "toy")
    told = str(refused.value)
    for text in ("missing: c [5, 6]", "unknown: b [4]", "a is [2, 3] and must be [3, 2]"):
        assert text in told


def test_what_is_read_is_told_and_never_more_than_all():
    told = []
    watched = ts.watched({"a": WHOLE}, lambda done, total: told.append((done, total)))
    for _ in range(2):
        assert np.array_equal(watched["a"].read(slice(0, 3)), VALUES[:3])
    assert told == [(720, 960), (960, 960)]
