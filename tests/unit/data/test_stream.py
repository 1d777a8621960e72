import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmscale.data import stream as streams
from palmscale.data.permutation import permute
from palmscale.data.stream import BatchSchedule, Cursor, RowStream, Shuffled
from palmscale.errors import UserError


class Numbers:
    """Rows that consist of their own number."""

    sequence_length = 2

    def __init__(self, num_rows):
        self.num_rows = num_rows

    def read(self, row_indices):
        return {"target": np.repeat(np.asarray(row_indices, np.int32)[:, None], 2, axis=1)}


def stream_of(num_rows=97, stages=((0, 4), (5, 7), (9, 16)), seed=0):
    rows = Shuffled(Numbers(num_rows), seed=seed)
    return RowStream(rows=rows, schedule=BatchSchedule(stages))


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
def test_a_wrong_schedule_is_refused_by_its_field(stages):
    with pytest.raises(UserError, match="BatchSchedule.stages=") as caught:
        BatchSchedule(stages)
    assert "\n" not in str(caught.value)


@settings(deadline=None)
@given(num_rows=st.integers(1, 300), seed=st.integers(0, 3))
def test_each_row_comes_once_an_epoch(num_rows, seed):
    rows = Shuffled(Numbers(num_rows), seed=seed)
    for epoch in range(3):
        numbers = np.arange(epoch * num_rows, (epoch + 1) * num_rows)
        assert np.array_equal(np.sort(rows.indices(numbers)), np.arange(num_rows))


def test_the_order_is_that_of_the_seed_and_the_epoch_and_has_not_changed_since_the_first_runs():
    rows = Shuffled(Numbers(5000), seed=3)
    for epoch in range(2):
        key = f"rows:3:{epoch}"
        order = permute(np.arange(5000), size=5000, key=key)
        assert np.array_equal(rows.indices(np.arange(5000) + epoch * 5000), order)


def test_epochs_seeds_and_names_are_shuffled_differently():
    shuffled = Shuffled(Numbers(1000), seed=0)
    first = shuffled.indices(np.arange(1000))
    for other in (
        shuffled.indices(np.arange(1000, 2000)),
        Shuffled(Numbers(1000), seed=1).indices(np.arange(1000)),
        Shuffled(Numbers(1000), seed=0, name="books").indices(np.arange(1000)),
    ):
        assert (first == other).mean() < 0.02


def test_the_rows_of_a_batch_on_both_sides_of_a_blocks_end_are_ordered_once(monkeypatch):
    sizes = []

    def counted(index, **options):
        sizes.append(len(index))
        return permute(index, **options)

    monkeypatch.setattr(streams, "permute", counted)
    rows = Shuffled(Numbers(10_000), seed=0)
    for first in range(4000, 4100):
        rows.indices(np.arange(first, first + 50))
    assert sizes == [4096, 4096]


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
    rows = stream_of(50)
    numbers = np.arange(40, 120)  # across two epochs' ends
    whole = rows.read(numbers)["target"]
    for pieces in (2, 5, 8):
        parts = [rows.read(part)["target"] for part in np.split(numbers, pieces)]
        assert np.array_equal(np.concatenate(parts), whole)
    other = stream_of(50, stages=((0, 3), (2, 11)))
    a, b = (s.read(np.array(flat(run(s, Cursor(), 12)[0])[:36]))["target"] for s in (rows, other))
    assert np.array_equal(a, b)


def test_epochs_count_the_rows_before_the_cursor():
    rows = stream_of(num_rows=40)
    assert rows.epochs(rows.cursor(0)) == {"epochs": 0}
    assert rows.epochs(rows.cursor(10)) == {"epochs": (5 * 4 + 4 * 7 + 16) / 40}
    named = Shuffled(Numbers(40), seed=0, name="books")
    schedule = BatchSchedule(((0, 10),))
    assert RowStream(rows=named, schedule=schedule).epochs(Cursor(next_row=100)) == {
        "epochs/books": 2.5
    }


def test_a_cursor_survives_json():
    cursor = stream_of().skip(Cursor(step=7, next_row=30), 11)
    assert Cursor.from_json(json.loads(json.dumps(cursor.to_json()))) == cursor


@pytest.mark.parametrize("skips", [((3, 3),), ((5, 2),), ((1, 4), (4, 6)), ((5, 9), (1, 2))])
def test_skips_out_of_order_are_refused(skips):
    with pytest.raises(ValueError, match="skips="):
        Cursor(skips=skips)


def test_a_split_without_rows_is_refused():
    with pytest.raises(UserError, match="the training split has no rows.*Data.sequence_length"):
        stream_of(0)
    with pytest.raises(UserError, match="the training split of books has no rows"):
        Shuffled(Numbers(0), seed=0, name="books")
