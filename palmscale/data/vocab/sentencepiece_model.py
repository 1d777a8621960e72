"""SentencePiece models with the properties of PaLM's vocabulary (arXiv:2204.02311, section 2)."""

import io
import re
from collections.abc import Iterable, Iterator

from palmscale.errors import UserError

MODEL_TYPES = ("bpe", "unigram")
MIN_SIZE, MAX_SIZE = 300, 256_000  # 259 are special or bytes; PaLM has 256k

# SentencePiece aborts the process at a word of 65,536 characters, and skips sentences that contain
# U+2047, its sign for an unknown piece.
_SENTENCE_CHARACTERS = 4000
_RESERVED = "\u2047"
_WORD_END = re.compile(r"\S(?= )")
_OPTIONS = {
    # Lossless: characters and whitespace are preserved, and what has no piece becomes bytes.
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
    "allow_whitespace_only_pieces": True,
    "split_digits": True,
    "character_coverage": 0.9999,
    "pad_id": 0,
    "eos_id": 1,
    "unk_id": 2,
    "bos_id": -1,
    "max_sentence_length": 4 * _SENTENCE_CHARACTERS,
    "num_threads": 16,  # a constant: sums, and therefore the model, depend on it
    "minloglevel": 2,
}


def train_model(texts: Iterable[str], *, size: int, model_type: str = "bpe") -> bytes:
    """Returns a SentencePiece model, as the content of its file.

    With the same version of SentencePiece, the same texts in the same order give the same model.
    Training takes 15 (bpe) to 30 bytes of memory per byte of text.

    Args:
        texts: to train on.
        size: number of pieces, MIN_SIZE to MAX_SIZE.
        model_type: one of MODEL_TYPES.

    Raises:
        UserError: there is too little text for the size, or the size is too small for the
            characters of the text.
    """
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sentences(texts),
            model_writer=model,
            vocab_size=size,
            model_type=model_type,
            **_OPTIONS,
        )
    except RuntimeError as error:
        raise _explain(str(error), size) from None
    return model.getvalue()


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    """Yields the texts in parts short enough for SentencePiece, cut before a word if possible."""
    for text in texts:
        for part in text.split(_RESERVED):
            start = 0
            while start < len(part):
                end = start + _SENTENCE_CHARACTERS
                if end < len(part):
                    word_end = _WORD_END.search(part, end - _SENTENCE_CHARACTERS // 2, end)
                    end = word_end.end() if word_end else end
                yield part[start:end]
                start = end


def _explain(message: str, size: int) -> Exception:
    if "!sentences_.empty()" in message:
        return UserError(
            "there is no text to train on; add documents, or decrease Corpus.held_out_fraction."
        )
    if found := re.search(r"Vocabulary size too high.*<= (\d+)", message):
        smaller = f", or use size={found[1]}" if int(found[1]) >= MIN_SIZE else ""
        return UserError(
            f"size={size} is too large: the text yields only {found[1]} pieces; train on more text"
            f" (more files, or a larger max_bytes){smaller}."
        )
    if found := re.search(r"smaller than required_chars\. *\d+ vs (\d+)", message):
        return UserError(
            f"size={size} is too small: the characters of the text alone take {found[1]} pieces;"
            f" use size={found[1]} or more."
        )
    return RuntimeError(f"SentencePiece cannot train: {message}")
