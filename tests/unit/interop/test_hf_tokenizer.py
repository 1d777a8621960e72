import json

import engine_exports
import hostile_texts
import pytest
import tiny_sentencepiece
from tokenizers import Tokenizer

from palmscale.data.vocab.huggingface_tokenizer import TokenizerVocabulary
from palmscale.data.vocabulary import ByteVocabulary, SentencePieceVocabulary
from palmscale.errors import UserError
from palmscale.interop.hf_tokenizer import write_tokenizer

VOCABULARIES = ("bytes", "raw_bytes", "bpe", "bpe_prefix", "tokenizer")


@pytest.fixture(scope="module", params=VOCABULARIES)
def both(request, tmp_path_factory):
    """Our vocabulary, and the tokenizer of the files that were written for it."""
    vocabulary, folder = engine_exports.vocabulary(request.param), tmp_path_factory.mktemp("t")
    write_tokenizer(vocabulary, folder, context_length=64)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer.encode_special_tokens = config["split_special_tokens"]  # as transformers does
    return vocabulary, tokenizer


def test_ids_of_hostile_texts_are_equal_after_bos(both):
    vocabulary, tokenizer = both
    for text in hostile_texts.hostile_texts():
        assert tokenizer.encode(text).ids == [
            vocabulary.bos_id,
            *vocabulary.encode(text).tolist(),
        ], repr(text)


def test_ids_give_the_same_text_back(both):
    vocabulary, tokenizer = both
    for text in hostile_texts.hostile_texts():
        ids = vocabulary.encode(text).tolist()
        assert tokenizer.decode([vocabulary.bos_id, *ids, vocabulary.eod_id]) == vocabulary.decode(
            ids
        ), repr(text)


def test_a_long_text_has_equal_ids(both):
    vocabulary, tokenizer = both
    text = "def encode(text):\n    return the\u0301  text ▁\n" * 2000
    assert tokenizer.encode(text).ids == [vocabulary.bos_id, *vocabulary.encode(text).tolist()]


def test_the_config_names_the_special_tokens(tmp_path):
    write_tokenizer(ByteVocabulary(), tmp_path, context_length=2048)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["bos_token"] == config["pad_token"] == "<pad>"
    assert config["eos_token"] == "</s>" and config["model_max_length"] == 2048


def test_a_unigram_model_is_refused_and_nothing_is_written(tmp_path):
    path = tiny_sentencepiece.train(tmp_path / "x.model", model_type="unigram")
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="is not BPE"):
        write_tokenizer(SentencePieceVocabulary(path), tmp_path / "out", context_length=64)
    assert not any((tmp_path / "out").iterdir())


def test_a_unigram_tokenizer_json_is_written_as_it_is(tmp_path):
    pieces = [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], ["▁a", -1.0], ["b", -2.0]]
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}
    settings = {
        "version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": space,
        "post_processor": None, "decoder": space,
        "model": {"type": "Unigram", "unk_id": 2, "vocab": pieces, "byte_fallback": False},
    }  # fmt: skip
    (tmp_path / "own.json").write_text(json.dumps(settings))
    vocabulary = TokenizerVocabulary(str(tmp_path / "own.json"))
    write_tokenizer(vocabulary, tmp_path, context_length=64)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.encode("a ab").ids == [vocabulary.bos_id, *vocabulary.encode("a ab").tolist()]
