import io

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from palmscale.data.vocab import ByteVocabulary, SentencePieceVocabulary, load_vocabulary
from palmscale.errors import CorruptionError, UserError

TEXT = "def encode(text):\n    return text  # two  spaces, \ttab\r\n" * 40
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


def train(path, **options):
    model = io.BytesIO()
    defaults = {
        "vocab_size": 300,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "pad_id": 0,
        "eos_id": 1,
        "unk_id": 2,
        "bos_id": -1,
        "hard_vocab_limit": False,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines(keepends=True)),
        model_writer=model,
        **(defaults | options),
    )
    path.write_bytes(model.getvalue())
    return str(path)


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


def test_a_model_without_eos_is_refused(tmp_path):
    with pytest.raises(UserError, match="no eos"):
        SentencePieceVocabulary(train(tmp_path / "m", eos_id=-1))


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(UserError, match="'words'"):
        load_vocabulary({"kind": "words", "digest": ""}, tmp_path)
