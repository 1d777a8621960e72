"""A slot's row is the request's, and arrays that nobody needs are not there."""

import numpy as np

from palmscale.infer.sampling import Sampling, row_of
from palmscale.infer.slot_rows import empty_rows, with_row

PROMPT, SIZE = np.array([1, 1, 4]), 6


def test_a_row_is_written_where_its_slot_is():
    sampling = Sampling(temperature=0.7, top_k=3, top_p=0.9, min_p=0.1)
    rows = with_row(empty_rows(3), 1, sampling, 2**40 + 5, PROMPT, SIZE)
    entry = row_of(sampling, 2**40 + 5)
    for name in ("temperature_B", "top_k_B", "top_p_B", "min_p_B", "key_B2"):
        np.testing.assert_array_equal(getattr(rows, name)[1], entry[name])
    assert rows.temperature_B.tolist()[::2] == [0, 0]
    assert rows.seen_BV is rows.count_BV is rows.bias_BV is rows.repetition_B is None


def test_penalties_and_biases_come_with_the_first_request_that_needs_them():
    rows = with_row(empty_rows(2), 0, Sampling(presence_penalty=1.5), 0, PROMPT, SIZE)
    assert rows.presence_B.tolist() == [1.5, 0] and rows.repetition_B.tolist() == [1, 1]
    assert rows.seen_BV.tolist() == [[False, True, False, False, True, False], [False] * 6]
    rows = with_row(rows, 0, Sampling(logit_bias=((2, 3.0),)), 0, PROMPT[:1], SIZE)
    assert rows.bias_BV.tolist() == [[0, 0, 3, 0, 0, 0], [0] * 6]
    assert rows.presence_B.tolist() == [0, 0]
    assert rows.seen_BV.sum() == 1 and not rows.count_BV.any()
    assert not with_row(rows, 0, Sampling(), 0, PROMPT, SIZE).bias_BV.any()
