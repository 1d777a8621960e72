import pytest
import tiny_tokenizer
from tiny_sentencepiece import TEXT, train

from palmscale.data.sources.source import Document
from palmscale.data.vocab import check
from palmscale.data.vocabulary import (
    ByteVocabulary,
    RawByteVocabulary,
    SentencePieceVocabulary,
    vocabulary_named,
)
from palmscale.errors import UserError

LOSSLESS = {"split_digits": True}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return SentencePieceVocabulary(train(tmp_path_factory.mktemp("m") / "m", **LOSSLESS))


def test_a_model_that_loses_nothing_shows_every_property(vocabulary):
    shown = dict(check.check(vocabulary))
    assert shown["every byte has a piece"] == "all 256"
    assert shown["[eod] has its own id"] == "[eod] 1, pad 0, bos 0"
    assert shown["decoding restores the text"].endswith(" adversarial texts")
    assert len(shown) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eos_id": 0, "pad_id": -1, "unk_id": 1}, "its own id': the special ids are [eod] 0"),
        ({"byte_fallback": False}, "every byte has a piece': missing are <0x00> and 255 more"),
        ({"add_dummy_prefix": True}, "can be joined': 'a' and 'b' decode to 'a b'"),
        ({"remove_extra_whitespaces": True}, "can be joined': 'a' and ' b' decode to 'ab'"),
        ({"normalization_rule_name": "nfkc"}, "decoding restores the text': "),
        ({"split_digits": False, "user_defined_symbols": ["v12"]}, "'v12' is a single piece"),
    ],
)
def test_the_first_property_that_fails_is_named_in_one_line(tmp_path, options, message):
    vocabulary = SentencePieceVocabulary(train(tmp_path / "my.model", **(LOSSLESS | options)))
    with pytest.raises(UserError) as caught:
        check.check(vocabulary)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/my.model fails the check ")


def test_a_tokenizer_shows_the_same_properties_though_its_numbers_may_be_whole(tmp_path):
    shown = dict(check.check(vocabulary_named(tiny_tokenizer.write(tmp_path))))
    assert shown["[eod] has its own id"] == "[eod] 0, pad 1, bos 0"
    assert shown["every byte has a piece"] == "all 256"
    assert shown["numbers are split into digits"].startswith("123.5 becomes 1")


def test_bytes_lose_nothing_and_raw_bytes_only_nul():
    assert len(check.check(ByteVocabulary())) == 6
    with pytest.raises(UserError, match="raw_bytes fails the check .*: <0x00> is missing"):
        check.check(RawByteVocabulary())


def test_a_vocabulary_whose_text_reaches_eod_is_refused(vocabulary, monkeypatch):
    monkeypatch.setattr(vocabulary, "eod_id", int(vocabulary.encode("<")[0]))
    with pytest.raises(UserError, match="no text contains a special id': '</s>'"):
        check.check(vocabulary)


def test_the_adversarial_texts_contain_the_hard_cases():
    texts = check.ADVERSARIAL_TEXTS
    joined = "".join(texts)
    for needed in ("\x00", "\r\n", "\t", "\ufeff", "\u200d", "\u0301", "</s>", "\U0010ffff"):
        assert needed in joined
    assert {"", " ", "\u2581", "\u2581\u2581"} <= set(texts)
    assert any(text.startswith("\u2581") and text.endswith("\u2581") for text in texts)
    assert any("\u2581 \u2581" in text for text in texts) and max(map(len, texts)) >= 100_000


def test_random_texts_are_the_same_for_a_seed_and_can_be_written():
    texts = check.random_texts(50)
    assert texts == check.random_texts(50) != check.random_texts(50, seed=1)
    assert all(text.encode() for text in texts)


def test_tokens_are_counted_by_group(vocabulary):
    documents = [Document(TEXT, "b"), Document("day", "a", "a "), Document(TEXT, "b")]
    counts = check.count_tokens(vocabulary, documents)
    assert list(counts) == ["a", "b"]
    assert (counts["b"].documents, counts["b"].utf8_bytes) == (2, 2 * len(TEXT))
    assert counts["b"].tokens == 2 * len(vocabulary.encode(TEXT))
    assert counts["a"].tokens == len(vocabulary.encode("a ")) + len(vocabulary.encode("day"))
    assert counts["a"].utf8_bytes == 5
