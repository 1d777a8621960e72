"""Between text and token ids: prompts in, text out, and no character broken in between."""

import itertools

import numpy as np
import pytest
import tiny_sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from palmscale.data.vocabulary import ByteVocabulary, SentencePieceVocabulary
from palmscale.errors import UserError
from palmscale.infer.text import TextStream, encode_pair, encode_prompt

BYTES = ByteVocabulary()
USUAL = {
    "add_dummy_prefix": True,
    "remove_extra_whitespaces": True,
    "normalization_rule_name": "nmt_nfkc",
}


def stream_text(token_ids, vocabulary, **prompt):
    """The text as it grows, token by token."""
    stream = TextStream(vocabulary, **prompt)
    pieces = [*(stream.add([token_id]) for token_id in token_ids), stream.finish()]
    return [piece for piece in pieces if piece]


def test_a_character_of_several_bytes_is_yielded_whole():
    text = "aé→𝄞z"
    assert (stream_text(BYTES.encode(text).tolist(), BYTES)) == list(text)


def test_bytes_that_are_no_character_are_replaced_once_the_next_one_comes():
    broken, whole = BYTES.encode("→")[:1].tolist(), BYTES.encode("b").tolist()
    assert (stream_text(broken + whole + broken, BYTES)) == ["\ufffdb", "\ufffd"]


def test_a_prompt_begins_with_bos_as_rows_do():
    ids = encode_prompt(BYTES, "hé")
    assert ids.dtype == np.int32 and ids[0] == BYTES.bos_id
    assert BYTES.decode(ids[1:]) == "hé"
    assert encode_prompt(BYTES, "").tolist() == [BYTES.bos_id]


def continued(vocabulary, prompt, text):
    """The text that is shown after a prompt, if the tokens that follow it are those of `text`."""
    prompt_ids = encode_prompt(vocabulary, prompt)
    ids = vocabulary.encode(prompt + text)[len(prompt_ids) - 1 :].tolist()
    return "".join(stream_text(ids, vocabulary, prompt=prompt, prompt_ids=prompt_ids))


@pytest.mark.parametrize(("prompt", "text"), [("def", " encode(text)"), ("def encode", " text")])
@pytest.mark.parametrize("options", [{}, USUAL], ids=["lossless", "SentencePiece's defaults"])
def test_the_space_before_the_first_word_is_kept(tmp_path, options, prompt, text):
    vocabulary = SentencePieceVocabulary(tiny_sentencepiece.train(tmp_path / "m", **options))
    assert continued(vocabulary, prompt, text) == text


def test_a_prompts_last_space_is_not_doubled(tmp_path):
    """SentencePiece by default encodes no space at the end: the next word brings it."""
    vocabulary = SentencePieceVocabulary(tiny_sentencepiece.train(tmp_path / "m", **USUAL))
    prompt_ids = encode_prompt(vocabulary, "def ")
    ids = vocabulary.encode("def encode").tolist()[len(prompt_ids) - 1 :]
    assert "".join(stream_text(ids, vocabulary, prompt="def ", prompt_ids=prompt_ids)) == "encode"


@settings(deadline=None, max_examples=50)
@given(st.binary(min_size=1, max_size=300), st.text(max_size=20))
def test_any_bytes_stream_and_come_together_as_they_decode(raw, prompt):
    ids = [byte + 3 for byte in raw]
    prompt_ids = encode_prompt(BYTES, prompt)
    pieces = stream_text(ids, BYTES, prompt=prompt, prompt_ids=prompt_ids)
    assert "".join(pieces) == raw.decode(errors="replace") and all(pieces)


def test_bytes_that_are_no_character_are_shown_as_they_come():
    stream = TextStream(BYTES)
    shown = "".join(stream.add([0xFF + 3]) for _ in range(20))
    assert set(shown) == {"\ufffd"} and len(shown) >= 20 - 3


def test_a_long_text_is_not_decoded_from_its_start_for_each_token(tmp_path):
    vocabulary = SentencePieceVocabulary(tiny_sentencepiece.train(tmp_path / "m", **USUAL))
    text = "def encode(text): return text naïve → 𝄞 " * 20
    lengths = []

    class Counting:
        def decode(self, ids):
            lengths.append(len(ids))
            return vocabulary.decode(ids)

    ids = vocabulary.encode(text).tolist()
    assert "".join(stream_text(ids, Counting())) == vocabulary.decode(ids)
    assert len(ids) > 500 and max(lengths) < 100


def test_a_prompt_that_is_no_text_is_refused():
    with pytest.raises(UserError, match="holds '.udcff' at character 2, which is not UTF-8"):
        encode_prompt(BYTES, "ab\udcff")


def cut(text, stop):
    """The text before the stop string that is complete first, and whether there is one."""
    for end in range(len(text) + 1):
        if starts := [end - len(s) for s in stop if text[:end].endswith(s)]:
            return text[: min(starts)], True
    return text, False


def streamed(vocabulary, ids, stop, sizes=(1,), **prompt):
    """The pieces that come of ids, which are added in groups, and the stream."""
    stream = TextStream(vocabulary, stop=stop, **prompt)
    pieces, at = [], 0
    for size in itertools.cycle(sizes):
        if at >= len(ids):
            return [*pieces, stream.finish()], stream
        pieces.append(stream.add(ids[at : at + size]))
        at += size


STOPS = st.lists(st.text("ab→\n \ufffd", min_size=1, max_size=5), max_size=3)
# Most of them are broken characters here and there.
RAW = st.lists(st.sampled_from([*"ab→→\n ", b"\xe2", b"\x86"]), max_size=40).map(
    lambda parts: b"".join(p if isinstance(p, bytes) else p.encode() for p in parts)
)


@settings(deadline=None, max_examples=200)
@given(RAW, STOPS, st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_a_stream_ends_before_the_first_stop_string_wherever_tokens_break(raw, stop, sizes):
    ids, text = [byte + 3 for byte in raw], raw.decode(errors="replace")
    pieces, stream = streamed(BYTES, ids, stop, sizes)
    assert ("".join(pieces), stream.stopped) == cut(text, stop)
    # What is out is never taken back: a stop string that may have begun is not out.
    for n in range(len(pieces)):
        shown = "".join(pieces[:n])
        assert cut(text, stop)[0].startswith(shown)


@pytest.mark.parametrize("options", [{}, USUAL], ids=["lossless", "SentencePiece's defaults"])
def test_stop_strings_of_words_end_a_stream_of_sentencepieces(tmp_path, options):
    vocabulary = SentencePieceVocabulary(tiny_sentencepiece.train(tmp_path / "m", **options))
    prompt, text = "def encode(", "text): return text → naïve 𝄞 text"
    prompt_ids = encode_prompt(vocabulary, prompt)
    ids = vocabulary.encode(prompt + text).tolist()[len(prompt_ids) - 1 :]
    for stop in (
        ["text"],
        [" return"],
        ["→ n"],
        ["𝄞"],
        ["ïv", "no"],
        [" text", "rn t"],
        ["not here"],
    ):
        pieces, stream = streamed(vocabulary, ids, stop, prompt=prompt, prompt_ids=prompt_ids)
        assert ("".join(pieces), stream.stopped) == cut(text, stop)


def test_what_may_begin_a_stop_string_is_held_back_and_no_more():
    pieces, stream = streamed(BYTES, BYTES.encode("a\nb\n\n\nc").tolist(), ["\n\n\n"])
    assert pieces == ["a", "", "\nb", "", "", "", "", ""] and stream.stopped
    pieces, _ = streamed(BYTES, BYTES.encode("a\nb").tolist(), ["\n\n\n"])
    assert pieces == ["a", "", "\nb", ""]
    pieces, _ = streamed(BYTES, BYTES.encode("ab\n\n").tolist(), ["\n\n\n"])
    assert pieces == ["a", "b", "", "", "\n\n"]


def test_overlapping_beginnings_of_stop_strings_are_found():
    for text, stop, wanted in [
        ("aaab", ["aab"], "a"),
        ("ababac", ["abac"], "ab"),
        ("xabcd", ["abcde", "bcd"], "xa"),
        ("xabc", ["bc", "abc"], "x"),
        ("xabcd", ["abcd", "bc"], "xa"),
    ]:
        pieces, stream = streamed(BYTES, BYTES.encode(text).tolist(), stop)
        assert "".join(pieces) == wanted and stream.stopped, text


def test_tokens_are_counted_up_to_the_one_that_completes_the_stop_string():
    ids = BYTES.encode("ab END more").tolist()
    for sizes in (1,), (4,), (100,):
        _, stream = streamed(BYTES, ids, ["END"], sizes)
        assert stream.tokens_used == 6
        assert stream.add(ids) == stream.finish() == "" and stream.tokens_used == 6
    assert streamed(BYTES, ids, [])[1].tokens_used == len(ids)


def test_a_stop_string_in_the_prompt_does_not_count():
    prompt_ids = encode_prompt(BYTES, "a END b EN")
    pieces, stream = streamed(
        BYTES, BYTES.encode("D c").tolist(), ["END"], prompt="a END b EN", prompt_ids=prompt_ids
    )
    assert "".join(pieces) == "D c" and not stream.stopped


@pytest.mark.parametrize(
    ("prompt", "new", "wanted"),
    [
        ("aé".encode()[:-1], "é".encode()[-1:] + b"b", "éb"),
        ("a𝄞".encode()[:-1], "𝄞".encode()[-1:] + b"b", "𝄞b"),
        ("a𝄞".encode()[:-1], b"b", "b"),
        ("a→".encode()[:2], "→".encode()[1:2], ""),
        ("a\ufffd".encode(), b"b", "b"),
    ],
)
def test_a_character_that_the_prompts_tokens_begin_is_shown_once_it_is_whole(prompt, new, wanted):
    prompt_ids, ids = ([byte + 3 for byte in text] for text in (prompt, new))
    assert "".join(stream_text(ids, BYTES, prompt_ids=prompt_ids)) == wanted


def test_an_empty_stop_string_is_refused():
    with pytest.raises(UserError, match="a stop string is empty"):
        TextStream(BYTES, stop=["a", ""])


def test_a_pair_is_one_text_whose_last_spaces_belong_to_the_continuation(tmp_path):
    pieces = SentencePieceVocabulary(tiny_sentencepiece.train(tmp_path / "m"))
    for vocabulary in (ByteVocabulary(), pieces):
        for context, continuation in (("def", " encode"), ("def ", "encode")):
            before, after = encode_pair(vocabulary, context, continuation)
            assert (vocabulary.decode(before), vocabulary.decode(after)) == ("def", " encode")
            assert [*before, *after] == encode_prompt(vocabulary, "def encode").tolist()
        nothing, all_ = encode_pair(vocabulary, "", "def")
        assert (nothing, all_) == ([vocabulary.bos_id], vocabulary.encode("def").tolist())
