import json

import memory_source
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palmscale.data.build import row_files
from palmscale.data.build.row_files import (
    RowFilePlan,
    RowFileSpec,
    forget_row_files,
    plan_row_files,
    write_row_file,
    written_row_file,
)
from palmscale.data.build.spill import SpillSpec, WorkUnit, spill
from palmscale.data.sources.held_out import SplitOf
from palmscale.data.vocabulary import ByteVocabulary

LENGTH = 16


def writing_in(folder, packing="concatenate"):
    (folder / "work").mkdir(exist_ok=True)
    return RowFileSpec(
        directory=folder,
        work=folder / "work",
        vocabulary_size=259,
        pad_id=0,
        sequence_length=LENGTH,
        packing=packing,
    )


@pytest.fixture
def runs(tmp_path):
    corpus = memory_source.corpus()
    common = SpillSpec(
        corpus=corpus,
        split_of=SplitOf(),
        vocabulary=ByteVocabulary(),
        seed=0,
        work=writing_in(tmp_path).work,
    )
    records = [
        spill(WorkUnit(i, (shard,)), lambda more: None, spec=common)
        for i, shard in enumerate(corpus.source.shards())
    ]
    return {
        r["unit"]: {split: entry["runs"] for split, entry in r["splits"].items()} for r in records
    }


@given(
    tokens=st.lists(st.integers(0, 90), min_size=1, max_size=40),
    rows_per_file=st.integers(1, 5),
    packing=st.sampled_from(["concatenate", "segments"]),
)
def test_plans_take_every_token_once(tokens, rows_per_file, packing, tmp_path_factory):
    writing = writing_in(tmp_path_factory.getbasetemp(), packing)
    ends = np.cumsum(tokens)
    with pytest.MonkeyPatch.context() as patch:
        bytes_per_shard = rows_per_file * LENGTH * writing.token_bytes
        patch.setattr(row_files, "_FILE_BYTES", bytes_per_shard)
        plans = list(row_files._plan_split("train", ends, writing))
    stop = 0
    for number, plan in enumerate(plans):
        begin = int(ends[plan.first_prefix - 1]) if plan.first_prefix else 0
        assert (plan.number, begin + plan.skip) == (number, stop)
        stop += plan.tokens
        assert stop <= ends[plan.last_prefix] and plan.tokens > 0
        assert packing == "concatenate" or stop == ends[plan.last_prefix]
    assert stop == (ends[-1] // LENGTH * LENGTH if packing == "concatenate" else ends[-1])


def test_shards_may_be_written_in_any_order_and_are_known_by_their_record(
    tmp_path, small_files, runs
):
    writing = writing_in(tmp_path)
    plans = plan_row_files(runs, writing)
    assert len(plans) > 3 and {plan.split for plan in plans} == {"train", "validation"}
    entries = {}
    for plan in plans[::-1]:
        assert written_row_file(plan, writing) is None
        entries[plan.name] = write_row_file(plan, lambda more: None, runs=runs, spec=writing)
        assert written_row_file(plan, writing) == entries[plan.name]
    content = {plan.name: (tmp_path / plan.name).read_bytes() for plan in plans}
    for plan in plans:
        assert write_row_file(plan, lambda m: None, runs=runs, spec=writing) == entries[plan.name]
        assert (tmp_path / plan.name).read_bytes() == content[plan.name]
    (tmp_path / plans[0].name).write_bytes(b"short")
    assert written_row_file(plans[0], writing) is None
    forget_row_files(writing)
    assert written_row_file(plans[1], writing) is None


def test_what_is_counted_are_the_bytes_of_the_rows(tmp_path, small_files, runs):
    writing, counted = writing_in(tmp_path), []
    plan = plan_row_files(runs, writing)[0]
    entry = write_row_file(plan, counted.append, runs=runs, spec=writing)
    assert sum(counted) == plan.tokens * 2 == entry["rows"] * LENGTH * 2


def test_a_shard_of_a_long_run_holds_64_mib(tmp_path):
    assert writing_in(tmp_path).rows_per_file * LENGTH * 2 == 2**26
    plan = RowFilePlan(split="train", number=7, first_prefix=0, last_prefix=0, skip=0, tokens=1)
    assert plan.name == "train-00007.arrayrecord"


def test_an_unreadable_record_counts_as_none(tmp_path):
    writing = writing_in(tmp_path)
    plan = RowFilePlan(split="train", number=0, first_prefix=0, last_prefix=0, skip=0, tokens=1)
    (writing.work / f"{plan.name}.json").write_text(json.dumps({"bytes": 1})[:5])
    (writing.directory / plan.name).write_bytes(b"x")
    assert written_row_file(plan, writing) is None
