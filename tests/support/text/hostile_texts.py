"""Texts that tokenizers treat differently: spaces, odd Unicode, names of special tokens, ..."""

import random

_PARTS = (
    " ", "  ", "   ", "\t", "\n", "\r\n", "\u00a0", "\u2003", "\u3000", "\u200b", "\u200d",
    "\ufeff", "\u2581", "\u2581\u2581", " \u2581 ", "\0", "\x01", "\x1b", "\x7f", "\u0085",
    "\u2028", "\u2029", "\ufffd", "\uffff", "\U0010ffff", "\ue000", "\u0301", "e\u0301", "\u00e9",
    "\u1e9b\u0323", "</s>", "<pad>", "<unk>", "<s>", "<0x41>", "<0x0A>", "<|endoftext|>", "[CLS]",
    "<|im_end|>", "def ", "return", "text", "encode(", "):\n", "    ", "the", "The", " the",
    "don't", "I'll", "0", "12", "345", "1234567890", "3.14", "\u0663", "\u2167", "\u00bd",
    "\u05e9\u05dc\u05d5\u05dd", "\u0645\u0631\u062d\u0628\u0627", "\u202eabc\u202c",
    "\u4f60\u597d", "\u3053\u3093", "\ud55c\uad6d", "\u0e44\u0e17\u0e22", "\u0915\u094d\u0937",
    "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\u2047",
    "\u2026", "\ufb01", "\u0130", "\u00df", "\u01c5", "!", "?!", "--", "//", "{}", "\\", '"', "'",
    "`", "$", "\u20ac",
)  # fmt: skip


def hostile_texts(count: int = 200) -> list[str]:
    """Returns `count` texts: each part alone, very long words, then random sequences of parts."""
    draw = random.Random(0)
    texts = ["", *_PARTS, "a" * 3000, "ab" * 1500, " " * 500, "\u00e9" * 700, "\U0001f600" * 300]
    while len(texts) < count:
        texts.append("".join(draw.choices(_PARTS, k=draw.randint(2, 30))))
    return texts[:count]
