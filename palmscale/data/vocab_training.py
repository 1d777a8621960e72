"""SentencePiece models with the properties of PaLM's vocabulary (arXiv:2204.02311, section 2)."""

import io
import re
from collections.abc import Iterable, Iterator

from palmscale.errors import UserError

MODEL_TYPES = ("bpe", "unigram")
MIN_SIZE, MAX_SIZE = 300, 256_000  # 259 are special or bytes; PaLM has 256k

# SentencePiece ends the process where a word has 65,536 characters, and skips a sentence with its
# own sign for the unknown, U+2047.
_SENTENCE_CHARACTERS = 4000
_RESERVED = "\u2047"
_WORD_END = re.compile(r"\S(?= )")
_OPTIONS = {
    # Nothing is lost: neither characters nor white space, and what has no piece becomes bytes.
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
    "num_threads": 16,  # not the machine's cores: sums depend on it, and so does the model
    "minloglevel": 2,
}


def train(texts: Iterable[str], *, size: int, model_type: str = "bpe") -> bytes:
    """Returns the bytes of a SentencePiece model with `size` pieces.

    The same texts in the same order give the same model, with one version of SentencePiece.
    Memory is 15 (bpe) to 30 bytes for each byte of text. Raises UserError where the text is too
    little for the size, or the size too small for the text's characters.
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
        raise _explained(str(error), size) from None
    return model.getvalue()


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    """Yields the texts in parts that SentencePiece takes, cut before a word where there is one."""
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


def _explained(message: str, size: int) -> Exception:
    if "!sentences_.empty()" in message:
        return UserError(
            "there is no text to train on - needed are documents that are not held out - give more"
            " files"
        )
    if found := re.search(r"Vocabulary size too high.*<= (\d+)", message):
        smaller = f", or --size={found[1]}" if int(found[1]) >= MIN_SIZE else ""
        return UserError(
            f"--size={size}: the text read yields only {found[1]} pieces - needed is more text, or"
            f" a smaller size - give more files or a larger --max_bytes{smaller}"
        )
    if found := re.search(r"smaller than required_chars\. *\d+ vs (\d+)", message):
        return UserError(
            f"--size={size}: the text's characters alone are {found[1]} pieces - needed is at least"
            f" that - use --size={found[1]} or more"
        )
    return RuntimeError(f"SentencePiece cannot train: {message}")
