import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmscale.data.permutation import permute


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 5000), key=st.text(max_size=8))
def test_every_index_is_hit_once_for_any_size_and_key(size, key):
    assert np.array_equal(np.sort(permute(np.arange(size), size=size, key=key)), np.arange(size))


def test_a_slice_is_permuted_as_in_the_whole():
    whole = permute(np.arange(100_003), size=100_003, key="k")
    assert np.array_equal(permute(np.arange(500, 700), size=100_003, key="k"), whole[500:700])


def test_keys_give_different_orders_and_neighbors_part():
    a, b = (permute(np.arange(10_000), size=10_000, key=key) for key in ("a", "b"))
    assert (a == b).mean() < 0.01
    assert (np.abs(np.diff(a)) == 1).mean() < 0.01
    assert abs(np.corrcoef(np.arange(10_000), a)[0, 1]) < 0.05


def test_the_order_is_the_same_for_ever():
    # Checkpoints hold row numbers: another order under an old number would repeat and lose data.
    assert permute(np.arange(10), size=10, key="rows:0:0").tolist() == [
        9,
        3,
        6,
        8,
        1,
        7,
        2,
        4,
        5,
        0,
    ]


def test_an_index_beyond_the_size_is_refused():
    with pytest.raises(IndexError):
        permute(np.array([7]), size=7, key="k")
