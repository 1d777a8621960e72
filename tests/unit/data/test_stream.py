import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmscale.data.stream import BatchSchedule, Cursor, RowStream
from palmscale.errors import UserError


class Numbers:
    """Rows that consist of their own number."""

    sequence_length = 2

    def __init__(self, num_rows):
        self.num_rows = num_rows

    def read(self, row_indices):
        return np.repeat(np.asarray(row_indices, np.int32)[:, None], 2, axis=1)


def stream_of(num_rows=97, stages=((0, 4), (5, 7), (9, 16)), seed=0):
    return RowStream(split=Numbers(num_rows), seed=seed, schedule=BatchSchedule(stages))


def run(stream, cursor, steps):
    """Returns the row numbers of each of the next steps, and the cursor after them."""
    batches = []
    for _ in range(steps):
        batches.append(stream.batch_rows(cursor).tolist())
        cursor = stream.advance(cursor)
    return batches, cursor


def flat(batches):
    return [row for batch in batches for row in batch]


schedules = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 12)), max_size=4).map(
    lambda pairs: (
        (0, 5),
        *((sum(p[0] for p in pairs[: i + 1]), n) for i, (_, n) in enumerate(pairs)),
    )
)


@given(stages=schedules, steps=st.integers(0, 60))
def test_rows_before_a_step_are_the_sum_of_the_batches_before_it(stages, steps):
    schedule = BatchSchedule(stages)
    assert schedule.rows_before(steps) == sum(schedule.sequences(step) for step in range(steps))


def test_the_papers_schedule_consumes_what_the_paper_says():
    paper = BatchSchedule(((0, 512), (50_000, 1024), (115_000, 2048)))
    assert [paper.sequences(s) for s in (0, 49_999, 50_000, 114_999, 115_000)] == [
        512,
        512,
        1024,
        1024,
        2048,
    ]
    assert paper.rows_before(255_000) * 2048 == pytest.approx(780e9, rel=0.02)


@pytest.mark.parametrize(
    "stages",
    [
        (),
        ((1, 4),),
        ((0, 4), (0, 8)),
        ((0, 4), (9, 8), (5, 8)),
        ((0, 0),),
        ((0, -3),),
        (0, 16),
        ((0, 1.5),),
        16,
    ],
)
def test_a_wrong_schedule_is_refused_by_its_macro_name(stages):
    with pytest.raises(UserError, match="BATCH_SCHEDULE=") as caught:
        BatchSchedule(stages)
    assert "\n" not in str(caught.value)


@settings(deadline=None)
@given(num_rows=st.integers(1, 300), seed=st.integers(0, 3))
def test_each_row_comes_once_an_epoch(num_rows, seed):
    stream = stream_of(num_rows, seed=seed)
    for epoch in range(3):
        numbers = np.arange(epoch * num_rows, (epoch + 1) * num_rows)
        assert np.array_equal(np.sort(stream.indices(numbers)), np.arange(num_rows))


def test_epochs_and_seeds_are_shuffled_differently():
    stream, other = stream_of(1000), stream_of(1000, seed=1)
    first, second = stream.indices(np.arange(1000)), stream.indices(np.arange(1000, 2000))
    assert (first == second).mean() < 0.02 and (
        first == other.indices(np.arange(1000))
    ).mean() < 0.02


@given(stages=schedules, steps=st.integers(0, 40))
def test_a_jump_to_any_step_equals_walking_there(stages, steps):
    stream = stream_of(stages=stages)
    batches, cursor = run(stream, Cursor(), steps)
    assert stream.cursor(steps) == cursor
    assert flat(batches) == list(range(stream.schedule.rows_before(steps)))


@given(
    first_skip=st.integers(1, 90),
    second_skip=st.integers(1, 90),
    at=st.integers(0, 12),
    back=st.integers(0, 12),
)
def test_skipping_leaves_out_exactly_the_next_rows(first_skip, second_skip, at, back):
    """Twice, the second time from before, within or after the first skip, as after two rewinds."""
    stream = stream_of()
    plain = iter(range(10**6))
    _, cursor = run(stream, Cursor(), at)
    rows_before = stream.schedule.rows_before(at)
    cursor = stream.skip(cursor, first_skip)
    expected = [
        r for r, _ in zip(plain, range(2000)) if not rows_before <= r < rows_before + first_skip
    ]
    again = stream.cursor(back, cursor.skips)
    done = stream.schedule.rows_before(back)
    assert flat(run(stream, again, 20)[0])[:200] == expected[done : done + 200]
    again = stream.skip(again, second_skip)
    later = expected[done + second_skip :]
    assert flat(run(stream, again, 20)[0])[:200] == later[:200]
    assert all(a[1] < b[0] for a, b in zip(again.skips, again.skips[1:]))


@given(skips=st.lists(st.integers(1, 50), max_size=3), steps=st.integers(0, 30))
def test_a_jump_over_skips_equals_walking_over_them(skips, steps):
    stream, cursor = stream_of(), Cursor()
    for rows in skips:
        _, cursor = run(stream, stream.skip(cursor, rows), 2)
    walked = run(stream, cursor, steps)[1]
    jumped = stream.cursor(walked.step, walked.skips)
    assert stream.batch_rows(jumped).tolist() == stream.batch_rows(walked).tolist()


def test_skipping_nothing_changes_nothing():
    assert stream_of().skip(Cursor(step=3, next_row=12), 0) == Cursor(step=3, next_row=12)


def test_rows_are_the_same_however_the_batch_is_sliced_and_whatever_its_size():
    stream = stream_of(50)
    numbers = np.arange(40, 120)  # across two epochs' ends
    whole = stream.read(numbers)
    for pieces in (2, 5, 8):
        assert np.array_equal(
            np.concatenate([stream.read(p) for p in np.split(numbers, pieces)]), whole
        )
    other = stream_of(50, stages=((0, 3), (2, 11)))
    a, b = (s.read(np.array(flat(run(s, Cursor(), 12)[0])[:36])) for s in (stream, other))
    assert np.array_equal(a, b)


def test_a_cursor_survives_json():
    cursor = stream_of().skip(Cursor(step=7, next_row=30), 11)
    assert Cursor.from_json(json.loads(json.dumps(cursor.to_json()))) == cursor


@pytest.mark.parametrize("skips", [((3, 3),), ((5, 2),), ((1, 4), (4, 6)), ((5, 9), (1, 2))])
def test_skips_out_of_order_are_refused(skips):
    with pytest.raises(ValueError, match="skips="):
        Cursor(skips=skips)


def test_a_split_without_rows_is_refused():
    with pytest.raises(UserError, match="SEQUENCE_LENGTH"):
        stream_of(0)
