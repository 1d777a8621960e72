import dataclasses

import numpy as np
import pytest
import text_source

from palmscale.data.sources.corpus import Corpus, one_of
from palmscale.data.sources.huggingface import HuggingFace
from palmscale.data.sources.jsonl_parquet import Jsonl, Parquet, Pile
from palmscale.data.sources.seqio_tasks import SeqioTask, Tfds
from palmscale.data.sources.source import (
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


def test_the_share_of_the_text_counts_and_bad_documents_have_none():
    texts = {"a": ["x" * 96, "é", BadDocument("a:3", "bad"), "", "yy"]}
    corpus = text_source.corpus(texts, held_out_fraction=0.04)
    shards = corpus.source.shards()
    split_of = corpus.split_of(shards)
    held = [number for number in range(5) if split_of(shards[0], number) == VALIDATION]
    assert sorted(len(texts["a"][number].encode()) for number in held) == [2, 2]


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


@pytest.mark.parametrize("name", ["jsonl_files", "parquet_files", "hf_dataset", "tfds_dataset"])
def test_keys_and_separator_are_those_of_the_records(name):
    keys = {"prompt_key": "q", "text_key": "a", "separator": "="}
    assert one_of(**{name: "x"}, **keys) == dataclasses.replace(CHOICES[name], **keys)


@pytest.mark.parametrize("given", [{}, {"text_files": "x"}, {"pile_files": "x"}])
def test_prompts_are_not_expected_of_plain_text(given):
    what = f"one_of.{next(iter(given), '')}" if given else "Python's standard library"
    with pytest.raises(UserError, match=f"asks for prompts, but {what} is plain text"):
        one_of(**given, prompt_key="q")
    assert one_of(mixture_or_task="x", prompt_key="q") == CHOICES["mixture_or_task"]


def test_two_at_once_are_refused_by_name():
    with pytest.raises(UserError, match="one_of.text_files and one_of.mixture_or_task are all set"):
        one_of(text_files="a", mixture_or_task="b")


@pytest.mark.parametrize("empty", ["", (), []])
def test_an_empty_choice_is_refused_rather_than_passed_over(empty):
    with pytest.raises(UserError, match="one_of.text_files=.* is empty; name the text"):
        one_of(text_files=empty)


@pytest.mark.parametrize("source", ["my/*.txt", None, 3])
def test_what_is_no_source_is_refused(source):
    with pytest.raises(UserError, match=r"Corpus.source=.* is not a source of documents"):
        Corpus(source=source)
