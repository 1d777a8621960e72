"""Vocabularies as files of Hugging Face's tokenizers, with the ids that palmscale gives a text."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from palmscale.data.vocab.byte_letters import byte_letters
from palmscale.data.vocab.huggingface_tokenizer import TokenizerVocabulary
from palmscale.data.vocabulary import (
    ByteVocabulary,
    RawByteVocabulary,
    SentencePieceVocabulary,
    Vocabulary,
)
from palmscale.errors import UserError
from palmscale.interop.sentencepiece_bpe import read_bpe

_BYTE_SPECIAL = ("<pad>", "</s>", "<unk>")


def write_tokenizer(vocabulary: Vocabulary, folder: Path, *, context_length: int) -> None:
    """Writes tokenizer.json and tokenizer_config.json, which `AutoTokenizer.from_pretrained` reads.

    It puts bos before each text. Names of special tokens in a text, such as `</s>`, are text.

    Args:
        vocabulary: to write.
        folder: that exists.
        context_length: tokens that the model can take.

    Raises:
        UserError: `tokenizers` would give texts other ids.
    """
    tokenizer = _tokenizer(vocabulary)
    special = _special_tokens(vocabulary, tokenizer)
    tokenizer["post_processor"] = _begins_with(special["bos_token"], vocabulary.bos_id)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context_length,
        "split_special_tokens": True,  # their names in a text are text
    }
    for name, content in (("tokenizer.json", tokenizer), ("tokenizer_config.json", config)):
        text = json.dumps(content, ensure_ascii=False, indent=2)
        (folder / name).write_text(text + "\n", encoding="utf-8")


def _tokenizer(vocabulary: Vocabulary) -> dict[str, Any]:
    if isinstance(vocabulary, ByteVocabulary):
        return _of_bytes([*_BYTE_SPECIAL, *byte_letters()], special=range(len(_BYTE_SPECIAL)))
    if isinstance(vocabulary, RawByteVocabulary):
        return _of_bytes(byte_letters(), special=[vocabulary.eod_id])
    if isinstance(vocabulary, SentencePieceVocabulary):
        return _of_sentencepiece(vocabulary)
    if isinstance(vocabulary, TokenizerVocabulary):
        return dict(vocabulary.settings)
    raise UserError(
        f"a vocabulary of the kind {vocabulary.name!r} cannot be written for Hugging Face's"
        " tokenizers; export to safetensors."
    )


def _special_tokens(vocabulary: Vocabulary, tokenizer: Mapping[str, Any]) -> dict[str, str]:
    if isinstance(vocabulary, TokenizerVocabulary):
        return vocabulary.special_tokens()
    names = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    ids = {
        "bos_token": vocabulary.bos_id,
        "eos_token": vocabulary.eod_id,
        "pad_token": vocabulary.pad_id,
    }
    return {role: names[token_id] for role, token_id in ids.items()}


def _of_bytes(texts: list[str], special: Iterable[int]) -> dict[str, Any]:
    options = {"add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return _described(
        texts,
        special=special,
        pre_tokenizer={"type": "ByteLevel", **options},
        decoder={"type": "ByteLevel", **options},
    )


def _of_sentencepiece(vocabulary: SentencePieceVocabulary) -> dict[str, Any]:
    # SentencePiece replaces spaces by U+2581. Here pieces have spaces, so that U+2581 in a text is
    # spelled in bytes, as palmscale does; unless the model adds a space, and takes it for one.
    bpe = read_bpe(vocabulary)

    def spaced(piece: str) -> str:
        return piece.replace("\u2581", " ")

    decoders = [{"type": "ByteFallback"}, {"type": "Fuse"}]
    normalizer = None
    if bpe.adds_space:
        space = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
        prefix = {"type": "Prepend", "prepend": " "}
        normalizer = {"type": "Sequence", "normalizers": [space, prefix]}
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return _described(
        list(map(spaced, bpe.pieces)),
        special=[*bpe.control, bpe.unknown],
        merges=[[spaced(first), spaced(second)] for first, second in bpe.merges()],
        byte_fallback=True,
        unk_token=bpe.pieces[bpe.unknown],
        normalizer=normalizer,
        decoder={"type": "Sequence", "decoders": decoders},
    )


def _described(
    texts: list[str],
    *,
    special: Iterable[int],
    decoder: dict[str, Any],
    merges: list[list[str]] | None = None,
    byte_fallback: bool = False,
    unk_token: str | None = None,
    normalizer: dict[str, Any] | None = None,
    pre_tokenizer: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns the content of a tokenizer.json with a BPE model."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": n, "content": texts[n], **plain, "special": True} for n in sorted(special)
        ],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unk_token,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": byte_fallback,
            "ignore_merges": False,
            "vocab": {text: n for n, text in enumerate(texts)},
            "merges": merges or [],
        },
    }


def _begins_with(bos: str, bos_id: int) -> dict[str, Any]:
    """Returns the post-processor that puts bos before each text."""
    begin = {"SpecialToken": {"id": bos, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [begin, first],
        "pair": [begin, first, second],
        "special_tokens": {bos: {"id": bos, "ids": [bos_id], "tokens": [bos]}},
    }
