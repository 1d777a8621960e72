import hashlib

import numpy as np
import pytest
import text_source

from palmscale.data.sources.corpus import Corpus, one_of
from palmscale.data.sources.huggingface import HuggingFace
from palmscale.data.sources.jsonl_parquet import Jsonl, Parquet, Pile
from palmscale.data.sources.seqio_tasks import SeqioTask, Tfds
from palmscale.data.sources.source import (
    TRAIN,
    VALIDATION,
    BadDocument,
    Document,
    Example,
    SourceShard,
    TextSource,
)
from palmscale.data.sources.text_files import SourceDirectories, StandardLibrary, TextFiles
from palmscale.data.vocabulary import ByteVocabulary
from palmscale.errors import UserError

SOURCE = TextFiles(files="x")
BYTES = ByteVocabulary()


def shards(**sizes):
    return [SourceShard(name=name, bytes=size) for name, size in sizes.items()]


def test_whole_files_are_held_out_in_the_order_of_their_names_hash():
    files = shards(**{f"f{i}": 10 for i in range(20)})
    split_of = Corpus(source=SOURCE, held_out_fraction=0.2).split_of(files)
    held = [shard.name for shard in files if split_of(shard, 0) == VALIDATION]
    by_hash = sorted((s.name for s in files), key=lambda n: hashlib.sha256(n.encode()).digest())
    assert sorted(held) == sorted(by_hash[:4])


def test_a_unit_is_never_torn():
    files = [
        SourceShard(name=f"p{i}/{j}", holdout_unit=f"p{i}", bytes=9)
        for i in range(8)
        for j in range(3)
    ]
    split_of = Corpus(source=SOURCE, held_out_fraction=0.3).split_of(files)
    splits = {(shard.holdout_unit, split_of(shard, 0)) for shard in files}
    assert len(splits) == 8 and {split for _, split in splits} == {TRAIN, VALIDATION}


def test_two_units_hold_out_one_and_a_lone_unit_none():
    both, alone = shards(a=5, b=5000), shards(a=5)
    corpus = Corpus(source=SOURCE)
    assert {corpus.split_of(both)(shard, 0) for shard in both} == {TRAIN, VALIDATION}
    assert corpus.split_of(alone)(alone[0], 0) == TRAIN
    none = Corpus(source=SOURCE, held_out_fraction=0.0).split_of(both)
    assert {none(shard, 0) for shard in both} == {TRAIN}


def test_a_single_file_of_many_documents_holds_out_some_of_them():
    (shard,) = [SourceShard(name="a.jsonl", bytes=9, has_many_documents=True)]
    split_of = Corpus(source=SOURCE, held_out_fraction=0.1).split_of([shard])
    held = sum(split_of(shard, number) == VALIDATION for number in range(10_000))
    assert 900 < held < 1100
    several = [shard, SourceShard(name="b.jsonl", bytes=9, has_many_documents=True)]
    split_of = Corpus(source=SOURCE, held_out_fraction=0.1).split_of(several)
    assert all(len({split_of(s, number) for number in range(100)}) == 1 for s in several)


def test_a_source_keeps_its_own_splits():
    files = [SourceShard(name=name, split=name, bytes=1) for name in (TRAIN, VALIDATION)]
    split_of = Corpus(source=SOURCE, held_out_fraction=0.5).split_of(files)
    assert [split_of(shard, 0) for shard in files] == [TRAIN, VALIDATION]


def test_text_becomes_ids_its_size_and_how_much_of_it_is_given():
    texts = ["é", Document("answer", "g", "question "), "", BadDocument("x:3", "bad")]
    source = text_source.GivenTexts(texts={"a": texts})
    (shard,) = source.shards()
    first, second, third, bad = source.examples(shard, BYTES)
    assert BYTES.decode(first.ids) == "é" and first.text_bytes == 2 and first.prompt_tokens == 0
    assert BYTES.decode(second.ids) == "question answer" and second.group == "g"
    assert second.prompt_tokens == 9 and second.text_bytes == 15
    assert third is None and bad == BadDocument("x:3", "bad")
    assert isinstance(first, Example) and first.ids.dtype == np.int32
    assert source.vocabulary(BYTES) is BYTES


def test_a_source_of_text_must_say_its_documents():
    with pytest.raises(NotImplementedError):
        TextSource().documents(SourceShard(name="a"))


def test_a_definition_is_json_without_what_is_not_set():
    corpus = Corpus(source=TextFiles(files=("a", "b")), held_out_fraction=0.1)
    assert corpus.definition() == {
        "source": {"class": "TextFiles", "files": ("a", "b")},
        "held_out_fraction": 0.1,
        "on_bad_document": "fail",
    }


@pytest.mark.parametrize("fraction", [-0.1, 1, 5])
def test_a_wrong_held_out_fraction_is_refused(fraction):
    with pytest.raises(UserError, match=f"Corpus.held_out_fraction={fraction}"):
        Corpus(source=SOURCE, held_out_fraction=fraction)


def test_a_wrong_word_for_bad_documents_is_refused():
    with pytest.raises(UserError, match="Corpus.on_bad_document='ignore'.*'skip'"):
        Corpus(source=SOURCE, on_bad_document="ignore")


CHOICES = {
    "text_files": TextFiles(files="x"),
    "jsonl_files": Jsonl(files="x"),
    "pile_files": Pile(files="x"),
    "parquet_files": Parquet(files="x"),
    "hf_dataset": HuggingFace(dataset="x"),
    "tfds_dataset": Tfds(dataset="x"),
    "source_directories": SourceDirectories(directories="x"),
    "mixture_or_task": SeqioTask(mixture_or_task="x"),
}


@pytest.mark.parametrize("name", CHOICES)
def test_one_line_names_a_source(name):
    source = one_of(**{name: "x"})
    assert source == CHOICES[name]
    kind, field = source.field.split(".")  # what messages name
    assert kind == type(source).__name__ and getattr(source, field) == "x"


def test_none_is_the_standard_library():
    assert one_of() == one_of(text_files=None) == StandardLibrary()


def test_two_at_once_are_refused_by_name():
    with pytest.raises(UserError, match="one_of.text_files and one_of.mixture_or_task are all set"):
        one_of(text_files="a", mixture_or_task="b")
