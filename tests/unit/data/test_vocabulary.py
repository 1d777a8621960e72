import pathlib
import pickle
import random

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from tiny_sentencepiece import train

from palmscale.data import vocabulary as vocabulary_module
from palmscale.data.vocabulary import (
    ByteVocabulary,
    SentencePieceVocabulary,
    load_vocabulary,
    vocabulary_named,
)
from palmscale.errors import CorruptionError, UserError

HARD = [
    "",
    " ",
    "  a  b ",
    "\ttab\r\n",
    "naïve 日本 👩‍👩‍👧",
    "\x00\x1b",
    "\ufeffbom",
    "a▁b▁▁",
    "▁",
    "▁ ▁",
    "</s><s>",
]


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    return train(tmp_path_factory.mktemp("model") / "lossless.model")


@given(st.text())
def test_bytes_round_trip_any_text(text):
    vocabulary = ByteVocabulary()
    ids = vocabulary.encode(text)
    assert ids.dtype == np.int32 and (not len(ids) or 3 <= ids.min() <= ids.max() < vocabulary.size)
    assert vocabulary.decode(ids) == text


def test_bytes_have_seqios_ids_and_decode_skips_specials():
    vocabulary = ByteVocabulary()
    assert (vocabulary.pad_id, vocabulary.bos_id, vocabulary.eod_id, vocabulary.size) == (
        0,
        0,
        1,
        259,
    )
    assert vocabulary.encode("a").tolist() == [100]
    assert vocabulary.decode([0, 1, 2, 100, 259, 100_000, -1]) == "a"
    assert vocabulary.decode([0xFF + 3]) == "\ufffd"


@pytest.mark.parametrize("text", HARD)
def test_a_lossless_model_round_trips_hard_text(model_file, text):
    vocabulary = SentencePieceVocabulary(model_file)
    assert vocabulary.decode(vocabulary.encode(text)) == text


@given(st.text(st.sampled_from("\u2581\u2581 \na日\u0301")))
def test_a_literal_space_sign_survives_beside_anything(model_file, text):
    vocabulary = SentencePieceVocabulary(model_file)
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_a_million_space_signs_survive(model_file):
    vocabulary = SentencePieceVocabulary(model_file)
    text = "\u2581" * 1_000_000 + " \u2581a" * 1000
    assert vocabulary.decode(vocabulary.encode(text)) == text


@given(st.text(st.characters(exclude_characters="\u2581", exclude_categories=["Cs"]), max_size=99))
def test_no_text_has_a_special_id_and_all_ids_are_sentencepieces(model_file, text):
    vocabulary = SentencePieceVocabulary(model_file)
    ids = vocabulary.encode(text)
    assert ids.dtype == np.int32
    assert ids.tolist() == sentencepiece.SentencePieceProcessor(model_file=model_file).encode(text)
    assert not {vocabulary.eod_id, vocabulary.pad_id, vocabulary.bos_id} & set(ids.tolist())


@pytest.mark.parametrize("split_by_whitespace", [True, False])
@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_long_texts_have_sentencepieces_own_ids(
    monkeypatch, tmp_path, model_type, split_by_whitespace
):
    monkeypatch.setattr(vocabulary_module, "_BLOCK_CHARACTERS", 7)
    model_file = train(
        tmp_path / "m", model_type=model_type, split_by_whitespace=split_by_whitespace
    )
    vocabulary = SentencePieceVocabulary(model_file)
    plain = sentencepiece.SentencePieceProcessor(model_file=model_file)
    words = np.random.default_rng(0).choice(
        ["return", " ", "  ", "\t", "text", " text", "\r\n", "日", "def encode(text):\n    "], 2000
    )
    text = "".join(words)
    expected, lengths = plain.encode(text), []
    encode = sentencepiece.SentencePieceProcessor.encode

    def encode_and_note(self, part, **options):
        lengths.append(len(part))
        return encode(self, part, **options)

    monkeypatch.setattr(sentencepiece.SentencePieceProcessor, "encode", encode_and_note)
    assert vocabulary.encode(text).tolist() == expected
    in_blocks = model_type == "bpe" and split_by_whitespace
    assert max(lengths) < 100 if in_blocks else lengths == [len(text)]


def test_ids_are_the_same_where_sentencepiece_gives_lists_alone(model_file, monkeypatch):
    expected = SentencePieceVocabulary(model_file).encode("return text")
    encode = sentencepiece.SentencePieceProcessor.encode

    def encode_to_lists(self, text, **options):
        if options.get("out_type") == "numpy":
            raise RuntimeError("unknown out_type=numpy")  # as sentencepiece 0.2.1 does
        return encode(self, text, **options)

    monkeypatch.setattr(sentencepiece.SentencePieceProcessor, "encode", encode_to_lists)
    ids = SentencePieceVocabulary(model_file).encode("return text")
    assert ids.dtype == np.int32 and ids.tolist() == expected.tolist()


def test_another_process_may_be_sent_a_vocabulary(model_file):
    vocabulary = SentencePieceVocabulary(model_file)
    sent = pickle.loads(pickle.dumps(vocabulary))
    assert sent.encode("a\u2581 b").tolist() == vocabulary.encode("a\u2581 b").tolist()


def test_decoding_ignores_ids_outside_the_vocabulary(model_file):
    vocabulary = SentencePieceVocabulary(model_file)
    assert (
        vocabulary.decode([*vocabulary.encode("text"), vocabulary.eod_id, vocabulary.size + 5, -1])
        == "text"
    )


def test_a_model_with_a_dummy_prefix_encodes_as_sentencepiece_does(tmp_path):
    vocabulary = SentencePieceVocabulary(train(tmp_path / "m", add_dummy_prefix=True))
    plain = sentencepiece.SentencePieceProcessor(model_file=vocabulary.model_file)
    assert vocabulary.encode("text▁text").tolist() == plain.encode("text▁text")


def test_a_saved_vocabulary_needs_its_first_file_no_more(model_file, tmp_path):
    for vocabulary in (ByteVocabulary(), SentencePieceVocabulary(model_file)):
        vocabulary.save(tmp_path)
        loaded = load_vocabulary(vocabulary.description(), tmp_path)
        assert loaded.digest == vocabulary.digest
        assert loaded.encode("return").tolist() == vocabulary.encode("return").tolist()


def test_a_changed_model_file_is_noticed(model_file, tmp_path):
    vocabulary = SentencePieceVocabulary(model_file)
    vocabulary.save(tmp_path)
    path = tmp_path / vocabulary.description()["file"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptionError, match=path.name):
        load_vocabulary(vocabulary.description(), tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"not a model", b"\x00" * 100])
def test_a_missing_or_wrong_model_file_is_one_line_with_its_name(tmp_path, content):
    path = tmp_path / "my.model"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="my.model") as caught:
        SentencePieceVocabulary(str(path))
    assert "\n" not in str(caught.value)


def test_a_model_whose_pieces_are_not_text_is_one_line_with_its_name(tmp_path):
    path = tmp_path / "m.model"
    train(path)
    path.write_bytes(path.read_bytes().replace(b"text", b"te\xfft"))
    with pytest.raises(UserError, match="m.model' is not a SentencePiece model"):
        SentencePieceVocabulary(str(path))


def test_a_model_without_eos_is_refused(tmp_path):
    with pytest.raises(UserError, match="no eos"):
        SentencePieceVocabulary(train(tmp_path / "m", eos_id=-1))


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(UserError, match="'words'"):
        load_vocabulary({"kind": "words", "digest": ""}, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file": "../m.model"}, "expected a relative path inside the folder"),
        ({"file": "/etc/passwd"}, "expected a relative path inside the folder"),
        ({"file": ""}, "expected a relative path inside the folder"),
        ({"file": 3}, "file is 3; expected str"),
        ({"kind": None}, "kind is None; expected str"),
        ({"digest": None}, "digest is None; expected str"),
    ],
    ids=str,
)
def test_a_description_that_is_none_is_refused(change, message, model_file, tmp_path):
    vocabulary = SentencePieceVocabulary(model_file)
    vocabulary.save(tmp_path)
    with pytest.raises(CorruptionError, match=message):
        load_vocabulary(vocabulary.description() | change, tmp_path)


def test_a_changed_model_is_refused_in_one_line_or_works(model_file, tmp_path):
    original = pathlib.Path(model_file).read_bytes()
    for seed in range(60):
        chance, content = random.Random(seed), bytearray(original)
        for _ in range(chance.randint(1, 20)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        path = tmp_path / "m.model"
        path.write_bytes(content)
        try:
            vocabulary = SentencePieceVocabulary(str(path))
            vocabulary.decode(vocabulary.encode("def a(x): \u2581"))
        except UserError as error:
            assert "m.model" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("text", ["def encode(text):", " two  spaces, naïve → 𝄞\n"])
def test_the_bytes_of_tokens_are_those_of_their_text(tmp_path, text):
    for vocabulary in (
        ByteVocabulary(),
        SentencePieceVocabulary(train(tmp_path / "m")),
    ):
        of_tokens = vocabulary.token_bytes()
        assert len(of_tokens) == vocabulary.size
        assert b"".join(of_tokens[i] for i in vocabulary.encode(text)) == text.encode()
        assert of_tokens[vocabulary.pad_id] is of_tokens[vocabulary.eod_id] is None


def test_raw_bytes_are_their_own_ids_and_nul_is_special():
    vocabulary = vocabulary_named("raw_bytes")
    text = "naïve → text"
    assert vocabulary.encode(text).tolist() == list(text.encode())
    assert vocabulary.decode([0, *text.encode(), 0, 256, -1]) == text
    assert vocabulary.token_bytes() == [None, *(bytes([b]) for b in range(1, 256))]
    assert (vocabulary.pad_id, vocabulary.bos_id, vocabulary.eod_id) == (0, 0, 0)
    assert load_vocabulary(vocabulary.description(), "anywhere").digest == vocabulary.digest


def test_a_vocabulary_is_named_by_a_word_or_its_file(model_file):
    assert vocabulary_named("bytes").digest == ByteVocabulary.digest
    assert vocabulary_named(model_file).digest == SentencePieceVocabulary(model_file).digest
    with pytest.raises(UserError, match="the SentencePiece model 'byte' cannot be read"):
        vocabulary_named("byte")
