import hashlib
import itertools
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palmscale.data.sources import held_out
from palmscale.data.sources.held_out import SplitOf, split_of
from palmscale.data.sources.source import SPLITS, TRAIN, VALIDATION, SourceShard


def files(**sizes):
    return [SourceShard(name=name, bytes=size) for name, size in sizes.items()]


def shards_of(documents):
    return [
        SourceShard(name=name, bytes=sum(sizes), has_many_documents=True)
        for name, sizes in documents.items()
    ]


def share(documents, fraction):
    """The held-out share of the bytes of documents, which are given as sizes by shard."""
    shards = shards_of(documents)
    assigned = split_of(shards, fraction, lambda shard: documents[shard.name])
    held = sum(
        size
        for shard in shards
        for number, size in enumerate(documents[shard.name])
        if assigned(shard, number) == VALIDATION
    )
    return held / sum(map(sum, documents.values()))


def held_files(shards, fraction):
    assigned = split_of(shards, fraction, None)
    return sorted(shard.name for shard in shards if assigned(shard, 0) == VALIDATION)


def by_hash(names):
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())


@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.3])
@pytest.mark.parametrize(
    "documents",
    [
        {"a": [30] * 1000},
        {"a": [30] * 500, "b": [30] * 500},
        {"big": [16] * 4350, "small": [16] * 14},
        {f"{i}": [9 + i] * 200 for i in range(7)},
        {"a": [2**i for i in range(18)] * 3, "b": [100] * 1000},
    ],
    ids=["one_file", "two_equal", "two_unequal", "seven", "heavy_tail"],
)
def test_the_share_of_files_of_many_documents_is_what_is_asked(documents, fraction):
    assert share(documents, fraction) == pytest.approx(fraction, rel=0.2)


def test_a_split_of_100_001_rows_holds_out_what_is_asked():
    rows = {"train-00000-of-00002": [20] * 100_000, "train-00001-of-00002": [20]}
    assert share(rows, 0.05) == pytest.approx(0.05, rel=0.2)


def test_a_few_documents_come_as_close_as_they_can():
    assert share({"a": [10] * 20}, 0.05) == 0.05
    assert share({"a": [10] * 12}, 0.05) == 1 / 12
    assert share({"a": [10] * 6}, 0.05) == 0
    assert share({"a": [10] * 3, "b": [10] * 3}, 0.05) == 0
    assert share({"a": [1_000_000, 10, 10, 10]}, 0.05) == pytest.approx(3e-5, rel=0.01)


def test_of_a_book_and_three_notes_the_notes_are_held_out():
    shards = files(book=1_000_000, note1=900, note2=800, note3=700)
    assert held_files(shards, 0.05) == ["note1", "note2", "note3"]


def test_no_file_is_held_out_if_each_is_more_than_twice_what_is_asked():
    assert held_files(files(a=10, b=10), 0.05) == []
    assert held_files(files(alone=10), 0.5) == []
    assert len(held_files(files(a=10, b=10), 0.5)) == 1


def test_of_two_misses_the_relatively_smaller_one_is_chosen():
    chapters = {f"chapter{i}": 1000 for i in range(10)}
    assert held_files(files(**chapters, readme=1), 0.09) in [[name] for name in chapters]


def test_whole_files_are_held_out_in_the_order_of_their_names_hash():
    shards = files(**{f"f{i}": 10 for i in range(20)})
    assert held_files(shards, 0.2) == sorted(by_hash(shard.name for shard in shards)[:4])


def test_whole_files_of_many_documents_are_held_out_if_they_fit():
    """As version 0.1.0 did, so that its runs resume after their caches are built again."""
    documents = {f"f{i}": [5, 5] for i in range(20)}
    assigned = split_of(shards_of(documents), 0.2, None)
    assert assigned.units == set(by_hash(documents)[:4])


def test_documents_below_their_hash_are_held_out_if_they_fit():
    """As version 0.1.0 did for a single file, whatever the sizes of its documents."""
    (shard,) = shards_of({"a.jsonl": [7] * 10_000})
    assigned = split_of([shard], 0.1, lambda shard: [7] * 10_000)
    assert assigned == SplitOf(fraction=0.1)
    held = {number for number in range(10_000) if assigned(shard, number) == VALIDATION}
    below = bytes.fromhex("19" + 7 * "99")  # a tenth of 2^64
    digests = [
        hashlib.sha256(f"a.jsonl:{number}".encode()).digest()[:8] for number in range(10_000)
    ]
    assert held == {number for number, digest in enumerate(digests) if digest <= below}


def test_a_large_corpus_is_not_read_for_it(monkeypatch):
    monkeypatch.setattr(held_out, "_SURVEYED_BYTES", 10)
    assigned = split_of(shards_of({"a": [6, 6]}), 0.1, lambda shard: pytest.fail("read"))
    assert assigned == SplitOf(fraction=0.1)
    monkeypatch.setattr(held_out, "_SURVEYED_BYTES", 1 << 20)
    monkeypatch.setattr(held_out, "_SURVEYED_DOCUMENTS", 100)
    endless = split_of(shards_of({"a": [6]}), 0.1, lambda shard: itertools.repeat(1))
    assert endless == SplitOf(fraction=0.1)


def test_documents_of_unknown_size_are_held_out_by_hash():
    shards = [SourceShard(name=name, has_many_documents=True) for name in "abc"]
    assert split_of(shards, 0.1, lambda shard: [1]) == SplitOf(fraction=0.1)


def test_a_unit_is_never_torn():
    shards = [
        SourceShard(name=f"p{i}/{j}", holdout_unit=f"p{i}", bytes=9)
        for i in range(8)
        for j in range(3)
    ]
    assigned = split_of(shards, 0.3, None)
    splits = {(shard.holdout_unit, assigned(shard, 0)) for shard in shards}
    assert len(splits) == 8 and {split for _, split in splits} == {TRAIN, VALIDATION}


def test_a_source_keeps_its_own_splits():
    shards = [SourceShard(name=name, split=name, bytes=1) for name in (TRAIN, VALIDATION)]
    assigned = split_of(shards, 0.5, None)
    assert [assigned(shard, 0) for shard in shards] == [TRAIN, VALIDATION]
    assert [assigned.splits_in(shard) for shard in shards] == [(TRAIN,), (VALIDATION,)]


def test_nothing_is_held_out_for_a_fraction_of_zero():
    assert split_of(files(a=5, b=5), 0.0, None) == SplitOf()


def test_a_shard_tells_which_splits_its_documents_may_have():
    a, b = shards_of({"a": [1], "b": [1]})
    assert SplitOf(units=frozenset("a")).splits_in(a) == (VALIDATION,)
    assert SplitOf(units=frozenset("a")).splits_in(b) == (TRAIN,)
    assert SplitOf(fraction=0.1).splits_in(a) == SPLITS
    some = SplitOf(documents={"a": frozenset({0})})
    assert some.splits_in(a) == SPLITS and some.splits_in(b) == (TRAIN,)
    assert pickle.loads(pickle.dumps(some)).digest == some.digest != SplitOf().digest


@given(
    st.lists(st.integers(1, 60), min_size=2, max_size=9),
    st.sampled_from([0.05, 0.1, 0.25, 0.5]),
)
def test_the_share_is_close_if_any_choice_is_and_never_more_than_twice(sizes, fraction):
    total = sum(sizes)
    got = share({"a": sizes}, fraction)
    sums = {sum(some) for n in range(len(sizes)) for some in itertools.combinations(sizes, n)}
    if any(abs(one - fraction * total) <= 0.2 * fraction * total for one in sums):
        assert got == pytest.approx(fraction, rel=0.2 + 1e-9)
    assert got <= 2 * fraction + 1e-9
