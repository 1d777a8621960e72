import pytest
from tiny_sentencepiece import TEXT, train

from palmscale.data import vocab_check
from palmscale.data.sources import Document
from palmscale.data.vocab import SentencePieceVocabulary
from palmscale.errors import UserError

LOSSLESS = {"split_digits": True}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return SentencePieceVocabulary(train(tmp_path_factory.mktemp("m") / "m", **LOSSLESS))


def test_a_model_that_loses_nothing_shows_every_property(vocabulary):
    shown = dict(vocab_check.check(vocabulary))
    assert shown["every byte has a piece"] == "all 256"
    assert shown["[eod] is an id of its own"] == "[eod] 1, pad 0, bos 0"
    assert shown["text comes back as it was"].endswith(" hostile texts")
    assert len(shown) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eos_id": 0, "pad_id": -1, "unk_id": 1}, "an id of its own: no, they are [eod] 0"),
        ({"byte_fallback": False}, "every byte has a piece: no, it lacks <0x00> and 255 more"),
        ({"add_dummy_prefix": True}, "join without a seam: no, 'a' and 'b' come back as 'a b'"),
        ({"remove_extra_whitespaces": True}, "a seam: no, 'a' and ' b' come back as 'ab'"),
        ({"normalization_rule_name": "nfkc"}, "text comes back as it was: no, "),
        ({"split_digits": False, "user_defined_symbols": ["v12"]}, "no, 'v12' is one piece"),
    ],
)
def test_the_first_property_that_fails_is_named_in_one_line(tmp_path, options, message):
    vocabulary = SentencePieceVocabulary(train(tmp_path / "my.model", **(LOSSLESS | options)))
    with pytest.raises(UserError) as caught:
        vocab_check.check(vocabulary)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/my.model: ")


def test_a_vocabulary_whose_text_reaches_eod_is_refused(vocabulary, monkeypatch):
    monkeypatch.setattr(vocabulary, "eod_id", int(vocabulary.encode("<")[0]))
    with pytest.raises(UserError, match="no text has a special id: no, '</s>'"):
        vocab_check.check(vocabulary)


def test_the_hostile_texts_hold_what_they_must():
    texts = vocab_check.HOSTILE_TEXTS
    joined = "".join(texts)
    for needed in ("\x00", "\r\n", "\t", "\ufeff", "\u200d", "\u0301", "</s>", "\U0010ffff"):
        assert needed in joined
    assert {"", " ", "\u2581", "\u2581\u2581"} <= set(texts)
    assert any(text.startswith("\u2581") and text.endswith("\u2581") for text in texts)
    assert any("\u2581 \u2581" in text for text in texts) and max(map(len, texts)) >= 100_000


def test_random_texts_are_the_same_for_a_seed_and_can_be_written():
    texts = vocab_check.random_texts(50)
    assert texts == vocab_check.random_texts(50) != vocab_check.random_texts(50, seed=1)
    assert all(text.encode() for text in texts)


def test_tokens_are_counted_by_group(vocabulary):
    documents = [Document(TEXT, "b"), Document("day", "a", "a "), Document(TEXT, "b")]
    counts = vocab_check.count_tokens(vocabulary, documents)
    assert list(counts) == ["a", "b"]
    assert (counts["b"].documents, counts["b"].utf8_bytes) == (2, 2 * len(TEXT))
    assert counts["b"].tokens == 2 * len(vocabulary.encode(TEXT))
    assert counts["a"].tokens == len(vocabulary.encode("a ")) + len(vocabulary.encode("day"))
    assert counts["a"].utf8_bytes == 5
