import dataclasses
import hashlib

import memory_source
import numpy as np
import pytest
import text_source
from hypothesis import given
from hypothesis import strategies as st

from palmscale.data.build import spill as spilling
from palmscale.data.build.spill import (
    INDEX,
    SpillSpec,
    WorkUnit,
    add_counts,
    document_key,
    finished,
    length_histogram,
    spill,
)
from palmscale.data.permutation import mix_bits
from palmscale.data.sources.held_out import SplitOf
from palmscale.data.sources.source import BadDocument, SourceShard
from palmscale.data.vocabulary import ByteVocabulary
from palmscale.errors import UserError

SHARDS = tuple(memory_source.corpus(prompts=True).source.shards())


@pytest.fixture
def common(tmp_path):
    corpus = memory_source.corpus(prompts=True)
    return SpillSpec(
        corpus=corpus, split_of=SplitOf(), vocabulary=ByteVocabulary(), seed=3, work=tmp_path
    )


def test_runs_are_sorted_by_key_and_their_index_finds_every_document(common, monkeypatch):
    monkeypatch.setattr(spilling, "_RUN_TOKENS", 200)
    unit = WorkUnit(7, SHARDS[:4])
    entry = spill(unit, lambda more: None, spec=common)["splits"]["train"]
    tokens = np.fromfile(common.work / "unit-000007.train.tokens", "<u2")
    index = np.fromfile(common.work / "unit-000007.train.index", INDEX)
    assert len(entry["runs"]) > 2 and sum(entry["runs"]) == len(index) == entry["documents"]
    assert len(tokens) == entry["tokens"] == index["length"].sum()
    for run in np.split(index, np.cumsum(entry["runs"])[:-1]):
        assert (np.diff(run["key"].astype(object)) > 0).all()
    found = [
        (tokens[start : start + length - 1].tolist(), prompt)
        for _, start, length, prompt in sorted(index.tolist())
    ]
    assert found == memory_source.expected_documents(common.corpus.source, "train", 3)
    assert (tokens[index["start"] + index["length"] - 1] == ByteVocabulary.eod_id).all()


def test_text_is_counted_in_bytes(common):
    counted = []
    record = spill(WorkUnit(0, SHARDS), counted.append, spec=common)
    sizes = [split["utf8_bytes"] for split in record["splits"].values()]
    assert sum(counted) == sum(sizes) > 0


def test_a_unit_is_finished_once_its_record_is_there_and_its_files_are_as_they_were(common):
    unit = WorkUnit(0, SHARDS[:2])
    assert finished(unit, common) is None
    record = spill(unit, lambda more: None, spec=common)
    assert finished(unit, common) == record
    for change in ({"stamp": "later"}, {"bytes": 5}, {"name": "other"}):
        changed = dataclasses.replace(SHARDS[0], **change)
        assert finished(WorkUnit(0, (changed, SHARDS[1])), common) is None
    others = dataclasses.replace(common, split_of=SplitOf(fraction=0.5))
    assert finished(unit, others) is None
    (common.work / "unit-000000.json").write_text('{"half')
    assert finished(unit, common) is None


def test_what_is_skipped_is_counted_in_documents(tmp_path):
    texts = {"a": ["text", BadDocument("a:2", "bad"), BadDocument("a:3", "cut", 7)]}
    texts["b"] = ["text", BadDocument("b:2", "cut", None)]
    corpus = text_source.corpus(texts, on_bad_document="skip")
    common = SpillSpec(
        corpus=corpus, split_of=SplitOf(), vocabulary=ByteVocabulary(), seed=0, work=tmp_path
    )
    unit = WorkUnit(0, tuple(corpus.source.shards()))
    bad = spill(unit, lambda more: None, spec=common)["bad_documents"]
    assert (bad["count"], bad["rests"]) == (8, 1)
    assert bad["first"] == ["a:2: bad", "a:3: cut", "b:2: cut"]


def test_a_file_that_changes_while_it_is_read_is_refused(common, tmp_path):
    path = tmp_path / "shard0"
    path.write_text("text")
    shard = SourceShard(name="shard0", path=str(path), bytes=4, stamp="of another time")
    with pytest.raises(UserError, match="shard0 changed while it was read"):
        spill(WorkUnit(0, (shard,)), lambda more: None, spec=common)


@given(st.integers(0, 2**40), st.integers(0, 9))
def test_keys_are_a_hash_of_seed_shard_and_number(number, seed):
    key = mix_bits(np.array([document_key(seed, "a")(number)], np.uint64)).item()
    base = hashlib.sha256(f"documents:{seed}:a".encode()).digest()[:8]
    place = (int.from_bytes(base, "little") + number * 0x9E3779B97F4A7C15) % 2**64
    assert key == mix_bits(np.array([place], np.uint64)).item()
    others = {document_key(seed, "b")(number), document_key(seed + 1, "a")(number)}
    assert document_key(seed, "a")(number) not in others


def test_keys_spread_evenly():
    key = document_key(0, "a")
    keys = mix_bits(np.array([key(number) for number in range(20_000)], np.uint64))
    counts = np.bincount(keys >> np.uint64(60), minlength=16)
    assert len(set(keys.tolist())) == 20_000 and abs(counts - 1250).max() < 200


@given(st.lists(st.integers(1, 2**31), min_size=1), st.lists(st.integers(1, 2**31), min_size=1))
def test_histograms_add_up(first, second):
    counts = length_histogram(np.array(first))
    edges = 2.0 ** (np.arange(len(counts) + 1) / 2)
    assert counts.tolist() == np.histogram(first, edges)[0].tolist() or len(counts) == 1
    both = add_counts(counts, length_histogram(np.array(second)))
    assert both.tolist() == length_histogram(np.array(first + second)).tolist()
