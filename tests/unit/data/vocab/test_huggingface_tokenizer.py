"""A tokenizer.json is a vocabulary like any other: exact, bounded in memory, stored with a run."""

import json
import pickle
import sys

import numpy as np
import pytest
import tiny_tokenizer
from tokenizers import Tokenizer

from palmscale.data.vocab import huggingface_tokenizer
from palmscale.data.vocab.check import ADVERSARIAL_TEXTS, random_texts
from palmscale.data.vocab.huggingface_tokenizer import TokenizerVocabulary
from palmscale.data.vocabulary import load_vocabulary, vocabulary_named
from palmscale.errors import CorruptionError, UserError


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tiny_tokenizer.write(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def vocabulary(path):
    return vocabulary_named(path)


def changed(**settings):
    return json.dumps({**json.loads(tiny_tokenizer.byte_level()), **settings})


def refusal(path):
    with pytest.raises(UserError) as refused:
        vocabulary_named(path)
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_texts_come_back_and_hold_no_special_id(vocabulary):
    special = {vocabulary.eod_id, vocabulary.bos_id, vocabulary.pad_id}
    for text in (*ADVERSARIAL_TEXTS, *random_texts(100), "a<|endoftext|>b <|padding|>"):
        ids = vocabulary.encode(text)
        assert vocabulary.decode(ids) == text
        assert ids.dtype == np.int32 and not special & set(ids.tolist())


def test_ids_are_those_of_the_package(vocabulary, path):
    theirs = Tokenizer.from_file(path)
    for text in random_texts(50):
        assert vocabulary.encode(text).tolist() == theirs.encode(text).ids


def test_the_bytes_of_the_tokens_make_up_the_text(vocabulary):
    token_bytes = vocabulary.token_bytes()
    assert len(token_bytes) == vocabulary.size
    for text in random_texts(50):
        assert b"".join(token_bytes[i] for i in vocabulary.encode(text)) == text.encode()
    special = [i for i, content in enumerate(token_bytes) if content is None]
    assert special == [0, 1]
    assert vocabulary.decode([0, 1, 70_000, -1]) == ""


def test_without_a_config_the_usual_names_are_found(vocabulary):
    assert (vocabulary.eod_id, vocabulary.bos_id, vocabulary.pad_id) == (0, 0, 1)


def test_a_config_beside_the_file_names_the_special_tokens(tmp_path, vocabulary):
    path = tiny_tokenizer.write(tmp_path, eos_token={"content": "<|padding|>"}, bos_token="    ")
    named = vocabulary_named(path)
    assert (named.eod_id, named.pad_id) == (1, 1)
    assert named.decode([named.bos_id]) == ""
    assert named.digest != vocabulary.digest
    path = tiny_tokenizer.write(tmp_path, eos_token="<|im_end|>")
    assert "has no token '<|im_end|>', which is named as its eos_token" in refusal(path)


def test_a_file_without_an_ending_token_is_refused(tmp_path):
    path = tiny_tokenizer.write(tmp_path, tiny_tokenizer.byte_level(ending="<|stop|>"))
    assert "has no token that ends a document" in refusal(path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|stop|>"}')
    assert vocabulary_named(path).eod_id == 0


def test_settings_for_batches_and_training_change_no_ids(tmp_path, vocabulary):
    text = "def f(x): return x  # a longer text\n" * 30
    settings = json.loads(tiny_tokenizer.byte_level())
    truncation = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    settings |= {"truncation": truncation, "model": {**settings["model"], "dropout": 0.5}}
    found = vocabulary_named(tiny_tokenizer.write(tmp_path, json.dumps(settings)))
    np.testing.assert_array_equal(found.encode(text), vocabulary.encode(text))


@pytest.mark.parametrize(
    "line", ["def f(x):    return x + 1\n", "語 ñandú  123 \t<|endoftext|>\r\n"]
)
def test_a_long_text_is_encoded_in_blocks_with_the_same_ids(vocabulary, path, monkeypatch, line):
    text = "".join(f"{n}{line}" for n in range(400))
    whole = vocabulary.encode(text)
    monkeypatch.setattr(huggingface_tokenizer, "_BLOCK", 1_000)
    monkeypatch.setattr(huggingface_tokenizer, "_OVERLAP", 200)
    blocks = [len(block) for block in vocabulary._encoded(text)]
    assert len(blocks) > 5
    np.testing.assert_array_equal(vocabulary.encode(text), whole)


def test_a_long_text_without_a_place_to_cut_is_encoded_whole(vocabulary, monkeypatch):
    monkeypatch.setattr(huggingface_tokenizer, "_BLOCK", 1_000)
    text = "a" * 5_000
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_it_is_stored_with_a_run_and_loaded_from_its_description(tmp_path, vocabulary):
    named = vocabulary_named(tiny_tokenizer.write(tmp_path / "from", eos_token="<|padding|>"))
    (tmp_path / "stored").mkdir()
    named.save(tmp_path / "stored")
    description = json.loads(json.dumps(named.description()))
    for directory in (tmp_path / "stored", tmp_path / "from"):
        (directory / "tokenizer_config.json").unlink()  # a cache in a bucket has the one file
        loaded = load_vocabulary(description, directory)
        assert (loaded.digest, loaded.eod_id, loaded.size) == (named.digest, 1, named.size)
    with pytest.raises(CorruptionError, match="differs from its stored digest"):
        tiny_tokenizer.write(
            tmp_path / "stored", changed(version="1.0", normalizer={"type": "NFC"})
        )
        load_vocabulary(description, tmp_path / "stored")


def test_the_stored_files_open_by_their_path_as_well(tmp_path):
    named = vocabulary_named(tiny_tokenizer.write(tmp_path / "from", eos_token="<|padding|>"))
    (tmp_path / "stored").mkdir()
    named.save(tmp_path / "stored")
    for path in (tmp_path / "stored", tmp_path / "stored/tokenizer.json"):
        assert vocabulary_named(str(path)).digest == named.digest


def test_another_process_gives_the_same_ids(vocabulary):
    text = "a<|endoftext|>b"
    copied = pickle.loads(pickle.dumps(vocabulary))
    np.testing.assert_array_equal(copied.encode(text), vocabulary.encode(text))


def test_text_that_is_not_utf8_is_refused_as_by_other_vocabularies(vocabulary):
    with pytest.raises(UnicodeEncodeError):
        vocabulary.encode("a\ud800")


@pytest.mark.parametrize("content", ["", "{}", '{"model": 3}', "[1]", "no JSON", '{"a": '])
def test_a_broken_file_is_refused_in_one_line(tmp_path, content):
    path = tiny_tokenizer.write(tmp_path, content)
    assert "is not a tokenizer.json of Hugging Face" in refusal(path)


def test_a_missing_file_is_refused_in_one_line(tmp_path):
    assert "cannot be read (No such file" in refusal(str(tmp_path / "tokenizer.json"))


def test_a_tokenizer_that_loses_text_is_refused(tmp_path):
    path = tiny_tokenizer.write(
        tmp_path, changed(decoder={"type": "WordPiece", "prefix": "##", "cleanup": True})
    )
    assert "decodes by WordPiece, from which bytes of text do not come back" in refusal(path)


def test_a_missing_package_is_named(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert "needs the package tokenizers" in refusal(path)
    assert "pip install 'palmscale[tokenizers]'" in refusal(path)


def test_sentencepieces_signs_are_bytes_too(tmp_path):
    vocab = {"<unk>": 0, "</s>": 1, "<0x41>": 2, "\u2581a": 3, "b": 4}
    content = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        "pre_tokenizer": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "vocab": vocab,
            "merges": [],
            "byte_fallback": True,
            "unk_token": "<unk>",
        },
    }
    found = TokenizerVocabulary(tiny_tokenizer.write(tmp_path, json.dumps(content)))
    assert found.token_bytes() == [None, None, b"A", b" a", b"b"]
    assert found.decode([3, 2, 4, 1]) == " aAb"
