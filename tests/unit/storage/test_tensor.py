"""A tensor that is read in parts: each once, in the order of files, and none too large."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmscale.storage.tensor import Tensor, contiguous


def of(array):
    return Tensor(array.shape, array.dtype, lambda part: array[part])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 7), max_size=4), st.integers(1, 200))
def test_blocks_follow_one_another_and_stay_below_their_size(shape, block_bytes):
    array = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    blocks = [block for _, block in of(array).blocks(block_bytes)]
    assert np.array_equal(
        np.concatenate([block.reshape(-1) for block in blocks]), array.reshape(-1)
    )
    assert all(block.nbytes <= max(block_bytes, 4) for block in blocks)


def test_a_part_is_read_by_slices_from_the_first_dim():
    array = np.arange(24).reshape(2, 3, 4)
    tensor = of(array)
    assert np.array_equal(tensor.read(slice(1, None), slice(-2, None)), array[1:, -2:])
    assert (tensor.size, tensor.bytes) == (24, 24 * array.itemsize)


@pytest.mark.parametrize("wanted", [slice(2, 1), slice(5, 9)])
def test_an_empty_part_is_empty(wanted):
    assert of(np.arange(6).reshape(3, 2)).read(wanted).shape == (0, 2)


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.complex128])
@pytest.mark.parametrize("dims", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (0, 2, 1)])
def test_values_come_in_the_order_of_files(dims, dtype):
    values = np.arange(3 * 50 * 70).reshape(3, 50, 70).astype(dtype).transpose(dims)
    for part in (values, values[1:, ::2], values[:, :0], values[0, 0, 0], values[..., 1:2]):
        found = contiguous(part)
        assert found.flags.c_contiguous and found.dtype == dtype and np.array_equal(found, part)
