"""What a server offers: one model behind an engine, and the spelling of its tokens."""

import dataclasses

import fake_engine
import tiny_sentencepiece
import tiny_tokenizer

from palmscale.data.vocabulary import SentencePieceVocabulary, vocabulary_named


def test_every_id_of_bytes_has_a_spelling_of_its_own():
    spelling = fake_engine.served().spelling
    assert len(spelling) == len(set(spelling)) == 259
    assert spelling[0] == "<s>" and spelling[1] == "</s>"
    assert spelling[ord("a") + 3] == "a" and spelling[0x9C + 3] == "<0x9C>"


def test_every_id_of_a_tokenizer_and_of_raw_bytes_has_a_spelling_of_its_own(tmp_path):
    for name in ("raw_bytes", tiny_tokenizer.write(tmp_path)):
        vocabulary = vocabulary_named(name)
        served = dataclasses.replace(
            fake_engine.served(), vocabulary=vocabulary, num_tokens=vocabulary.size
        )
        assert len(set(served.spelling)) == len(served.spelling) == vocabulary.size
        assert served.spelling[vocabulary.eod_id] == "</s>"
        text = "".join(served.spelling[i] for i in vocabulary.encode("def f(x):"))
        assert text == "def f(x):"


def test_every_id_of_sentencepiece_has_a_spelling_of_its_own(tmp_path):
    vocabulary = SentencePieceVocabulary(tiny_sentencepiece.train(tmp_path / "x.model"))
    served = dataclasses.replace(
        fake_engine.served(), vocabulary=vocabulary, num_tokens=vocabulary.size + 5
    )
    spelling = served.spelling
    assert len(set(spelling)) == len(spelling) == vocabulary.size + 5
    ids = vocabulary.encode("def encode(text)\n").tolist()
    assert "".join(spelling[token_id] for token_id in ids) == "def encode(text)\n"
    assert [spelling[token_id] for token_id in vocabulary.encode("é")] == ["<0xC3>", "<0xA9>"]
