"""The losses and rewinds of a run: what is saved of it, and where a rewind leads."""

import json

import pytest

from palmscale.data.stream import BatchSchedule, RowStream, Shuffled
from palmscale.train.spike import Spike, SpikePolicy
from palmscale.train.spike_history import SpikeHistory


class Split:
    num_rows, sequence_length = 1000, 4


STREAM = RowStream(rows=Shuffled(Split(), seed=0), schedule=BatchSchedule(((0, 4), (10, 8))))
POLICY = SpikePolicy(rewind_steps=5, skip_steps=3, max_rewinds=2)


def test_a_rewind_leaves_out_the_batches_from_the_target_on_as_many_rows_as_they_had():
    history = SpikeHistory(POLICY)
    beyond = history.rewind(SpikeHistory(POLICY), Spike(11, 11, "high"), STREAM, STREAM.cursor(8))
    assert (beyond.step, beyond.next_row, beyond.skips) == (8, 48, ((32, 48),))
    (record,) = history.rewinds
    assert record["rewound_to"] == 8 and record["skipped_rows"] == 16
    assert (record["onset"], record["found"], record["reason"]) == (11, 11, "high")


def test_the_rewinds_so_far_stay_known_though_an_older_checkpoint_did_not_know_them():
    before = SpikeHistory(POLICY)
    before.rewind(SpikeHistory(POLICY), Spike(11, 11, "first"), STREAM, STREAM.cursor(4))
    restored = SpikeHistory(POLICY)
    restored.rewind(before, Spike(20, 20, "second"), STREAM, STREAM.cursor(8))
    assert [record["reason"] for record in restored.rewinds] == ["first", "second"]


def test_it_comes_back_whole_from_a_checkpoint():
    history = SpikeHistory(POLICY)
    for step in range(5):
        history.observe(step, {"loss": 3.0, "grad_norm": 1.0})
    history.rewind(history, Spike(11, 11, "high"), STREAM, STREAM.cursor(8))
    again = SpikeHistory(POLICY, json.loads(json.dumps(history.to_json())))
    assert again.to_json() == history.to_json()


def test_more_rewinds_than_allowed_are_an_error_that_names_the_spike():
    history = SpikeHistory(POLICY)
    for _ in range(2):
        history.check_rewinds(Spike(11, 12, "high"))
        history.rewind(history, Spike(11, 12, "high"), STREAM, STREAM.cursor(8))
    with pytest.raises(RuntimeError, match=r"from step 11 to 12 \(high\) after 2 rewind"):
        history.check_rewinds(Spike(11, 12, "high"))


def test_what_a_rewind_may_need_is_kept_and_found():
    history = SpikeHistory(POLICY)
    kept = history.steps_to_keep([2, 4, 6, 8, 10, 12], 12)
    assert history.target(kept, Spike(13, 13, "high")) == 6


def test_a_checkpoint_of_an_earlier_version_calls_it_the_course():
    known = {"detector": None, "rewinds": [{"reason": "high"}]}
    for name in ("course", "spike_history"):
        assert SpikeHistory.of(POLICY, {name: known}).rewinds == [{"reason": "high"}]
    assert SpikeHistory.of(POLICY, {}).rewinds == []
