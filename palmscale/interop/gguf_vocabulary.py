"""Vocabularies in GGUF files, with the ids that palmscale gives a text."""

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING

from palmscale.data.vocab.byte_letters import byte_letters
from palmscale.data.vocab.huggingface_tokenizer import TokenizerVocabulary
from palmscale.data.vocabulary import (
    ByteVocabulary,
    RawByteVocabulary,
    SentencePieceVocabulary,
    Vocabulary,
)
from palmscale.errors import UserError
from palmscale.interop.byte_level_bpe import read_byte_level
from palmscale.interop.sentencepiece_bpe import read_bpe, splits

if TYPE_CHECKING:
    import gguf


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Tokens:
    """A vocabulary as llama.cpp describes it.

    Attributes:
        model: how it encodes: `llama` is SentencePiece BPE, `gpt2` byte-level BPE.
        texts: of the tokens by id.
        kinds: of the tokens, names of `gguf.TokenType`.
        scores: of `llama`.
        merges: of `gpt2`, in the order of priority.
        adds_space: whether a space is put before each text.
    """

    model: str
    texts: list[str]
    kinds: list[str]
    scores: list[float] | None = None
    merges: list[str] | None = None
    adds_space: bool = False


def add(writer: "gguf.GGUFWriter", vocabulary: Vocabulary, num_tokens: int) -> None:
    """Adds a vocabulary, with bos before each text, and unused tokens up to `num_tokens`.

    With SentencePiece, llama.cpp takes U+2581 in a text for a space. All other ids are equal.

    Raises:
        UserError: llama.cpp would give texts other ids.
    """
    from gguf import TokenType

    tokens = _tokens(vocabulary)
    unused = num_tokens - len(tokens.texts)
    writer.add_tokenizer_model(tokens.model)
    writer.add_token_list(tokens.texts + [f"<unused{n}>" for n in range(unused)])
    kinds = tokens.kinds + ["UNUSED"] * unused
    writer.add_token_types([TokenType[kind] for kind in kinds])
    if tokens.scores is not None:
        writer.add_token_scores(tokens.scores + [-1e9] * unused)
    if tokens.merges is not None:
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_merges(tokens.merges)
    writer.add_bos_token_id(vocabulary.bos_id)
    writer.add_eos_token_id(vocabulary.eod_id)
    writer.add_pad_token_id(vocabulary.pad_id)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(tokens.adds_space)


def _tokens(vocabulary: Vocabulary) -> _Tokens:
    # Bytes are not `llama`, which would take U+2581 for a space.
    if isinstance(vocabulary, ByteVocabulary):
        return _byte_level(["<pad>", "</s>", "<unk>", *byte_letters()], control=range(3))
    if isinstance(vocabulary, RawByteVocabulary):
        return _byte_level(byte_letters(), control=[vocabulary.eod_id])
    if isinstance(vocabulary, SentencePieceVocabulary):
        return _of_sentencepiece(vocabulary)
    if isinstance(vocabulary, TokenizerVocabulary):
        bpe = read_byte_level(vocabulary)
        return _byte_level(bpe.texts, control=bpe.special, whole=bpe.whole, merges=bpe.merges)
    raise UserError(
        f"a vocabulary of the kind {vocabulary.name!r} cannot be written to GGUF; export to hf."
    )


def _byte_level(
    texts: list[str],
    *,
    control: Iterable[int],
    whole: Iterable[int] = (),
    merges: Iterable[tuple[str, str]] = (),
) -> _Tokens:
    kinds = ["NORMAL"] * len(texts)
    for token_id in control:
        kinds[token_id] = "CONTROL"
    for token_id in whole:
        kinds[token_id] = "USER_DEFINED"
    # llama.cpp wants at least one merge; nothing makes the pieces of this one.
    pairs = list(merges) or [("<none>", "<none>")]
    return _Tokens(model="gpt2", texts=texts, kinds=kinds, merges=[" ".join(p) for p in pairs])


def _of_sentencepiece(vocabulary: SentencePieceVocabulary) -> _Tokens:
    bpe = read_bpe(vocabulary)
    texts, kinds = list(bpe.pieces), ["NORMAL"] * len(bpe.pieces)
    for token_id in bpe.byte_ids:
        kinds[token_id] = "BYTE"
    for token_id in (*bpe.control, bpe.unknown):
        kinds[token_id] = "UNKNOWN" if token_id == bpe.unknown else "CONTROL"
        # llama.cpp merges pieces into any token, `</` and `s>` into the end of the document.
        while any(set(pair) <= set(bpe.pieces) for pair in splits(texts[token_id])):
            texts[token_id] = f"<{texts[token_id]}>"
    return _Tokens(
        model="llama", texts=texts, kinds=kinds, scores=bpe.scores, adds_space=bpe.adds_space
    )
