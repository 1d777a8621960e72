import json

import engine_exports
import pytest

from palmscale.data.vocab.huggingface_tokenizer import TokenizerVocabulary
from palmscale.errors import UserError
from palmscale.interop.byte_level_bpe import read_byte_level

FILE = engine_exports.MODELS / "gpt2_like/tokenizer.json"


def changed(folder, *, model=None, words=None, added=None, **settings):
    """The vocabulary of a tokenizer.json in which some settings differ."""
    content = json.loads(FILE.read_text()) | settings
    content["model"] |= model or {}
    content["pre_tokenizer"] |= words or {}
    content["added_tokens"] = [token | (added or {}) for token in content["added_tokens"]]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return TokenizerVocabulary(str(folder / "tokenizer.json"))


def test_tokens_are_told_apart():
    vocabulary = TokenizerVocabulary(str(FILE))
    bpe = read_byte_level(vocabulary)
    assert len(bpe.texts) == vocabulary.size
    assert [bpe.texts[n] for n in bpe.special] == ["<|endoftext|>", "<|padding|>"]
    assert [bpe.texts[n] for n in bpe.whole] == ["    "]
    assert ("t", "e") in bpe.merges or ("Ġ", "t") in bpe.merges


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (dict(normalizer={"type": "NFC"}), "normalizes text"),
        (dict(pre_tokenizer={"type": "Whitespace"}), r"cuts words in its own way \(Whitespace\)"),
        (dict(words={"use_regex": False}), r"cuts words in its own way \(ByteLevel\)"),
        (dict(words={"add_prefix_space": True}), "adds a space"),
        (dict(model={"ignore_merges": True}), "takes whole words before merges"),
        (dict(added={"lstrip": True}), "has added tokens that take spaces"),
    ],
)
def test_what_llama_cpp_would_encode_otherwise_is_refused_by_name(changes, reason, tmp_path):
    with pytest.raises(UserError, match=f"the vocabulary's tokenizer.json {reason}"):
        read_byte_level(changed(tmp_path, **changes))
