import memory_source
import numpy as np
import pytest
import text_source
from hypothesis import given, settings
from hypothesis import strategies as st

from palmscale.data.sources.source import TRAIN, VALIDATION, BadDocument, Document
from palmscale.data.vocab.document_sample import DocumentSample, text_bytes
from palmscale.errors import UserError

WORDS = ["alpha ", "βήτα ", "日本 ", "delta\n"]


def many(shards=6, documents=50, seed=0):
    random = np.random.default_rng(seed)
    return {
        f"s{i}": [
            f"{i}:{j} " + "".join(random.choice(WORDS, random.integers(1, 40)))
            for j in range(documents)
        ]
        for i in range(shards)
    }


def texts_of(corpus, split=TRAIN, max_bytes=10**9, seed=0):
    sample = DocumentSample(corpus=corpus, split=split, max_bytes=max_bytes, seed=seed)
    return [document.text for document in sample.documents()]


@given(st.integers(1000, 20_000), st.integers(0, 3))
@settings(deadline=None)
def test_a_sample_is_the_beginning_of_any_larger_one_and_nearly_as_large_as_asked(max_bytes, seed):
    corpus = text_source.corpus(many())
    whole = texts_of(corpus, seed=seed)
    sample = texts_of(corpus, max_bytes=max_bytes, seed=seed)
    assert sample == whole[: len(sample)]
    size = sum(len(text.encode()) for text in sample)
    longest = max(len(text.encode()) for text in whole)
    assert len(sample) == 1 or max_bytes - longest <= size <= max_bytes


def test_which_documents_are_sampled_does_not_depend_on_the_others():
    texts = many()
    few = {name: texts[name] for name in ("s0", "s3", "s5")}
    splits = dict.fromkeys(texts, TRAIN)
    whole = texts_of(text_source.corpus(texts, splits=splits))
    part = texts_of(text_source.corpus(few, splits=splits))
    kept = set(part)
    assert part == [text for text in whole if text in kept] and len(kept) == 150


def test_a_seed_decides_the_sample():
    corpus = text_source.corpus(many())
    assert texts_of(corpus, max_bytes=3000, seed=1) == texts_of(corpus, max_bytes=3000, seed=1)
    assert texts_of(corpus, max_bytes=3000, seed=1) != texts_of(corpus, max_bytes=3000, seed=2)


@pytest.mark.parametrize("shards", [1, 6])
def test_the_splits_share_no_document_and_miss_none(shards):
    texts = many(shards)
    corpus = text_source.corpus(texts, held_out_fraction=0.2)
    train, held_out = texts_of(corpus, TRAIN), texts_of(corpus, VALIDATION)
    assert train and held_out and not set(train) & set(held_out)
    assert sorted(train + held_out) == sorted(text for shard in texts.values() for text in shard)


def test_shards_that_are_held_out_are_not_read():
    corpus = text_source.corpus(many(), splits={"s2": VALIDATION}, held_out_fraction=0)
    texts_of(corpus, TRAIN)
    assert sorted(corpus.source.read) == ["s0", "s1", "s3", "s4", "s5"]
    corpus.source.read.clear()
    texts_of(corpus, VALIDATION)
    assert corpus.source.read == ["s2"]


def test_a_small_sample_reads_no_more_than_some_shards():
    corpus = text_source.corpus(many(shards=60))
    assert texts_of(corpus, max_bytes=200)
    assert 1 < len(corpus.source.read) < 20


def test_a_document_longer_than_the_sample_is_cut():
    assert texts_of(text_source.corpus({"s": ["abc" * 1000]}), max_bytes=10) == ["abcabcabca"]


def test_documents_without_text_are_left_out_and_prompts_count():
    corpus = text_source.corpus({"s": ["", Document("target", "g", "prompt ")]})
    (document,) = DocumentSample(corpus=corpus, split=TRAIN, max_bytes=100).documents()
    assert document == Document("target", "g", "prompt ") and text_bytes(document) == 13


def test_a_bad_document_ends_the_sample_or_is_skipped_as_the_corpus_says():
    texts = {"s": ["good", BadDocument("f:2", "no text - give some - correct it"), "better"]}
    with pytest.raises(UserError, match="^f:2: no text"):
        texts_of(text_source.corpus(texts))
    skipping = text_source.corpus(texts, on_bad_document="skip")
    assert sorted(texts_of(skipping)) == ["better", "good"]


def test_progress_ends_at_the_bytes_of_all_shards():
    seen = []
    corpus = text_source.corpus({"s": ["a" * 3_000_000, "βγ" * 1_000_000]})
    sample = DocumentSample(corpus=corpus, split=TRAIN, max_bytes=10**7)
    sample.documents(lambda done, total: seen.append((done, total)))
    assert len(seen) == 3 and seen == sorted(seen)
    assert seen[-1] == (5_000_000, 5_000_000)


def test_a_source_of_tokens_is_refused_in_one_line():
    with pytest.raises(UserError, match="MemorySource yields tokens") as caught:
        DocumentSample(corpus=memory_source.corpus(), split=TRAIN, max_bytes=10)
    assert "\n" not in str(caught.value)
