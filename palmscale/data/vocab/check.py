"""Checks that a vocabulary is lossless, as PaLM's is, on adversarial text.

The properties are those of arXiv:2204.02311, section 2, and those that training on concatenated
documents requires.
"""

import random
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from palmscale.data.dataset import Data
from palmscale.data.sources.source import VALIDATION, Document, text_bytes
from palmscale.data.vocab.document_sample import sample_documents
from palmscale.data.vocabulary import SentencePieceVocabulary, Vocabulary
from palmscale.errors import UserError

_SPACE_SIGN = "\u2581"  # stands for a space in SentencePiece
_LONG = 100_000
_RANDOM_TEXTS = 500
_MEASURED_BYTES = 20_000_000  # of held-out text
_DIGITS = re.compile("[0-9]")

ADVERSARIAL_TEXTS = (
    *("", " ", "  ", " a", "a ", " a  b ", "   a\n    b", "\ta\t\tb\t", "\t", " \t "),
    *("\n", "\n\n\n", "a\n", "\r\n", "a\r\nb\r\n", "\r", "a\u2028b\u2029c\x85d\x0be\x0cf"),
    *("".join(map(chr, range(32))), "\x00", "a\x00\x00b", "\x7f\x80\x9f", "\x1b[2J"),
    *("👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪🇫🇷", "e\u0301", "\u0301", "a\u0300\u0316\u0327", "ﬁ①Ａ½"),
    *(
        "日本語の文章。",
        "中文 与 空格",
        "한국어 \u1112\u1161\u11ab",
        "שָׁלוֹם العربية",
        "\u202eabc\u202c",
    ),
    *("\ufeffa", "a\ufeff", "\u200b\u200c\u200d", "\u00a0\u1680\u2003\u202f\u3000", "\u00ad"),
    *("\u0378", "\ue000", "\ufffd", "\ufffe\uffff", "\U0001fffe", "\U000e0001", "\U0010ffff"),
    *(_SPACE_SIGN, _SPACE_SIGN * 2, f"{_SPACE_SIGN}a{_SPACE_SIGN}", f"a{_SPACE_SIGN}b"),
    *(f" {_SPACE_SIGN} ", f"{_SPACE_SIGN} {_SPACE_SIGN}", f"a {_SPACE_SIGN}{_SPACE_SIGN} b"),
    *("</s>", "<s>", "<unk>", "<pad>", "<s></s>a", "<0x41>", "<0x0A><0xE2>", "[eod]", "\u2047"),
    *("123.5", "3,141,592.653", "1e-10", "０１２", "٣٤", "a1b22c333", "0" * 100),
    *("a" * _LONG, " " * _LONG, "\n" * _LONG, "ab " * _LONG, "語" * _LONG, _SPACE_SIGN * _LONG),
)


def check(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Returns the properties that hold, as pairs of name and evidence.

    Raises:
        UserError: a property does not hold; names the first one.
    """
    proven = []
    for name, find in _PROPERTIES:
        wrong, evidence = find(vocabulary)
        if wrong:
            told = getattr(vocabulary, "model_file", vocabulary.name)
            raise UserError(
                f"{told} fails the check {name!r}: {wrong}; use a model that passes this check."
            )
        proven.append((name, evidence))
    return proven


class Counts(NamedTuple):
    """The size of some documents, and the number of tokens they encode to."""

    documents: int = 0
    utf8_bytes: int = 0
    tokens: int = 0  # without [eod]


def held_out_counts(vocabulary: Vocabulary, data: Data) -> dict[str, Counts]:
    """Returns the counts of a sample of the held-out documents of `data`, by group or component.

    Raises:
        UserError: `data` is not text.
    """
    documents = sample_documents(data, VALIDATION, max_bytes=_MEASURED_BYTES)
    return count_tokens(vocabulary, documents)


def count_tokens(vocabulary: Vocabulary, documents: Iterable[Document]) -> dict[str, Counts]:
    """Returns the counts of the documents by group, sorted by name."""
    groups: dict[str, Counts] = {}
    for document in documents:
        tokens = sum(len(vocabulary.encode(text)) for text in (document.prompt, document.text))
        before = groups.get(document.group, Counts())
        one = Counts(1, text_bytes(document), tokens)
        groups[document.group] = Counts(*map(sum, zip(before, one)))
    return dict(sorted(groups.items()))


def random_texts(count: int, seed: int = 0) -> list[str]:
    """Returns short texts of random code points except surrogates; equal seeds give equal texts."""
    source = random.Random(seed)
    ranges = [(0, 0x7F), (0, 0x2FF), (0x2500, 0x25FF), (0, 0xD7FF), (0xE000, 0x10FFFF)]
    return [
        "".join(
            chr(source.randint(*source.choice(ranges))) if source.random() < 0.8 else " "
            for _ in range(source.randint(1, 40))
        )
        for _ in range(count)
    ]


def _special_ids(vocabulary: Vocabulary) -> tuple[str, str]:
    named = f"[eod] {vocabulary.eod_id}, pad {vocabulary.pad_id}, bos {vocabulary.bos_id}"
    # Others than SentencePiece's may begin a document with the id that ends the one before it.
    shared = vocabulary.eod_id in (vocabulary.pad_id, vocabulary.bos_id)
    same = shared and isinstance(vocabulary, SentencePieceVocabulary)
    return f"the special ids are {named}" if same else "", named


def _bytes(vocabulary: Vocabulary) -> tuple[str, str]:
    if isinstance(vocabulary, SentencePieceVocabulary):
        found = {byte for byte, i in enumerate(vocabulary.byte_ids()) if i is not None}
    else:
        found = {content[0] for content in vocabulary.token_bytes() if content and not content[1:]}
    missing = [f"<0x{byte:02X}>" for byte in range(256) if byte not in found]
    if len(missing) == 1:
        return f"{missing[0]} is missing", ""
    return f"missing are {missing[0]} and {len(missing) - 1} more" if missing else "", "all 256"


def _text_is_restored(vocabulary: Vocabulary) -> tuple[str, str]:
    texts = _all_texts()
    for text in texts:
        back = vocabulary.decode(vocabulary.encode(text))
        if back != text:
            return f"{_excerpt(text)} decodes to {_excerpt(back)}", ""
    return "", f"{len(texts):,} adversarial texts"


def _joins(vocabulary: Vocabulary) -> tuple[str, str]:
    # Prompts and targets, and the documents of a row, are encoded separately but decoded together.
    pairs = [("a", "b"), ("a", " b"), ("a ", "b"), ("def f(", "x):\n"), ("\n", "  x"), ("1", "2")]
    for first, second in pairs:
        ids = [*vocabulary.encode(first), *vocabulary.encode(second)]
        if (back := vocabulary.decode(ids)) != first + second:
            return f"{first!r} and {second!r} decode to {back!r}", ""
    return "", f"{len(pairs)} pairs"


def _no_special(vocabulary: Vocabulary) -> tuple[str, str]:
    special = {vocabulary.eod_id, vocabulary.pad_id, vocabulary.bos_id}
    texts = _all_texts()
    for text in texts:
        ids = vocabulary.encode(text)
        found = special.intersection(ids.tolist())
        if found or (len(ids) and not 0 <= ids.min() <= ids.max() < vocabulary.size):
            which = found or {int(ids.min()), int(ids.max())}
            return f"{_excerpt(text)} encodes to ids that include {sorted(which)}", ""
    return "", f"ids from 0 to {vocabulary.size - 1:,}"


def _numbers_split(vocabulary: Vocabulary) -> tuple[str, str]:
    apart = [vocabulary.decode([token_id]) for token_id in vocabulary.encode("123.5")]
    evidence = f"123.5 becomes {' '.join(apart)}"
    if not isinstance(vocabulary, SentencePieceVocabulary):
        return "", evidence  # as their authors chose
    byte_ids = set(vocabulary.byte_ids())
    for token_id, piece in enumerate(vocabulary.pieces()):
        if len(piece) > 1 and token_id not in byte_ids and _DIGITS.search(piece):
            return f"{piece!r} is a single piece", ""
    return ("", evidence) if apart == list("123.5") else (f"123.5 becomes {apart}", "")


_Finding = Callable[[Vocabulary], tuple[str, str]]  # (what is wrong, evidence)
_PROPERTIES: tuple[tuple[str, _Finding], ...] = (
    ("[eod] has its own id", _special_ids),
    ("every byte has a piece", _bytes),
    ("separately encoded texts can be joined", _joins),
    ("decoding restores the text", _text_is_restored),
    ("no text contains a special id", _no_special),
    ("numbers are split into digits", _numbers_split),
)


def _all_texts() -> list[str]:
    return [*ADVERSARIAL_TEXTS, *random_texts(_RANDOM_TEXTS)]


def _excerpt(text: str) -> str:
    return ascii(text if len(text) <= 20 else text[:20] + "...")
