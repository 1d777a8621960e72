"""The course of a run: what is saved of it, and where a rewind leads."""

import json

import pytest

from palmscale.cli.course import Course
from palmscale.data.stream import BatchSchedule, RowStream, Shuffled
from palmscale.train.spike import Spike, SpikePolicy


class Split:
    num_rows, sequence_length = 1000, 4


STREAM = RowStream(rows=Shuffled(Split(), seed=0), schedule=BatchSchedule(((0, 4), (10, 8))))
POLICY = SpikePolicy(rewind_steps=5, skip_steps=3, max_rewinds=2)


def test_a_rewind_leaves_out_the_batches_from_the_target_on_as_many_rows_as_they_had():
    course = Course(POLICY)
    beyond = course.go_on(Course(POLICY), Spike(11, 11, "high"), STREAM, STREAM.cursor(8))
    assert (beyond.step, beyond.next_row, beyond.skips) == (8, 48, ((32, 48),))
    (record,) = course.rewinds
    assert record["rewound_to"] == 8 and record["skipped_rows"] == 16
    assert (record["onset"], record["found"], record["reason"]) == (11, 11, "high")


def test_the_rewinds_so_far_stay_known_though_an_older_checkpoint_did_not_know_them():
    before = Course(POLICY)
    before.go_on(Course(POLICY), Spike(11, 11, "first"), STREAM, STREAM.cursor(4))
    restored = Course(POLICY)
    restored.go_on(before, Spike(20, 20, "second"), STREAM, STREAM.cursor(8))
    assert [record["reason"] for record in restored.rewinds] == ["first", "second"]


def test_it_comes_back_whole_from_a_checkpoint():
    course = Course(POLICY)
    for step in range(5):
        course.observe(step, {"loss": 3.0, "grad_norm": 1.0})
    course.go_on(course, Spike(11, 11, "high"), STREAM, STREAM.cursor(8))
    again = Course(POLICY, json.loads(json.dumps(course.to_json())))
    assert again.to_json() == course.to_json()


def test_more_rewinds_than_allowed_are_an_error_that_names_the_spike():
    course = Course(POLICY)
    for _ in range(2):
        course.check_rewinds(Spike(11, 12, "high"))
        course.go_on(course, Spike(11, 12, "high"), STREAM, STREAM.cursor(8))
    with pytest.raises(RuntimeError, match=r"from step 11 to 12 \(high\) after 2 rewind"):
        course.check_rewinds(Spike(11, 12, "high"))


def test_what_a_rewind_may_need_is_kept_and_found():
    course = Course(POLICY)
    kept = course.steps_to_keep([2, 4, 6, 8, 10, 12], 12)
    assert course.target(kept, Spike(13, 13, "high")) == 6
