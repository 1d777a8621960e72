"""Byte-level BPE as in GPT-2, of a tokenizer.json, for engines that know no other kind of file."""

import dataclasses

from palmscale.data.vocab.huggingface_tokenizer import TokenizerVocabulary
from palmscale.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByteLevelBpe:
    """Byte-level BPE within the words that GPT-2 cuts a text into.

    Attributes:
        texts: of the tokens by id, bytes as letters.
        special: ids of tokens that no text contains.
        whole: ids of other tokens that a text is searched for before it is cut into words.
        merges: pairs in the order of priority.
    """

    texts: list[str]
    special: list[int]
    whole: list[int]
    merges: list[tuple[str, str]]


def read_byte_level(vocabulary: TokenizerVocabulary) -> ByteLevelBpe:
    """Returns the vocabulary's BPE.

    Raises:
        UserError: it is of another kind, or changes text or cuts words in other ways.
    """
    settings = vocabulary.settings
    model, words = settings["model"], settings.get("pre_tokenizer") or {}
    added = settings.get("added_tokens") or []
    for is_so, reason in (
        (model.get("type") != "BPE", f"is not BPE ({model.get('type')})"),
        (settings.get("normalizer"), "normalizes text"),
        (
            words.get("type") != "ByteLevel" or not words.get("use_regex", True),
            f"cuts words in its own way ({words.get('type')})",
        ),
        (words.get("add_prefix_space"), "adds a space"),
        (model.get("ignore_merges"), "takes whole words before merges"),
        (model.get("continuing_subword_prefix"), "marks parts of words"),
        (model.get("end_of_word_suffix"), "marks ends of words"),
        (
            any(token[mark] for token in added for mark in ("lstrip", "rstrip", "single_word")),
            "has added tokens that take spaces",
        ),
    ):
        if is_so:
            raise UserError(
                f"the vocabulary's tokenizer.json {reason}; only byte-level BPE as in GPT-2 has the"
                " same ids in llama.cpp: export to hf."
            )
    ids = dict(model["vocab"]) | {token["content"]: token["id"] for token in added}
    texts = [f"<unused{n}>" for n in range(vocabulary.size)]
    for text, token_id in ids.items():
        texts[token_id] = text
    own = {vocabulary.bos_id, vocabulary.eod_id, vocabulary.pad_id}
    special = own | {token["id"] for token in added if token["special"]}
    merges = [tuple(m.split(" ") if isinstance(m, str) else m) for m in model["merges"]]
    return ByteLevelBpe(
        texts=texts,
        special=sorted(special),
        whole=sorted({token["id"] for token in added} - special),
        merges=merges,
    )
