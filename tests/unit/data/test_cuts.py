import itertools

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_sentencepiece import train

from palmscale.data import cuts as cutting
from palmscale.data.cuts import Cuts
from palmscale.data.vocabulary import SentencePieceVocabulary

PREFIXED = {"add_dummy_prefix": True, "normalization_rule_name": "nmt_nfkc"}
MODELS = {
    f"{kind} {name}": {"model_type": kind, **options}
    for kind in ("bpe", "unigram")
    for name, options in {
        "lossless": {},
        "pieces of several words": {"split_by_whitespace": False},
        "prefixed": PREFIXED | {"remove_extra_whitespaces": True},
        "prefixed, spaces kept": PREFIXED,
        "prefixed, without bytes": PREFIXED | {"byte_fallback": False},
    }.items()
}

WORDS = ["return", "text", " ", "  ", "def encode(text):\n    ", *"et1日é\u0301\t"]


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        name: SentencePieceVocabulary(train(folder / name, **options))
        for name, options in MODELS.items()
    }


@pytest.mark.parametrize("name", MODELS)
def test_parts_have_the_ids_of_the_whole_text(vocabularies, name, monkeypatch):
    monkeypatch.setattr(cutting, "PART_CHARACTERS", 5)
    monkeypatch.setattr("palmscale.data.vocabulary._BLOCK_CHARACTERS", 5)
    vocabulary = vocabularies[name]
    plain = sentencepiece.SentencePieceProcessor(model_file=vocabulary.model_file)

    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.sampled_from(WORDS), max_size=40).map("".join))
    def check(text):
        assert vocabulary.encode(text).tolist() == plain.encode(text)

    check()


def test_a_text_is_cut_where_no_piece_spans_and_nothing_is_lost(monkeypatch):
    monkeypatch.setattr(cutting, "PART_CHARACTERS", 4)
    cuts = Cuts(["ab", "bc", "\u2581d", "x"], begins_with_space=False)
    assert list(cuts.parts("abc dabcabcabc")) == ["abc d", "abcabc", "abc"]
    assert cuts.spans("abc", 1) and cuts.spans("abc", 2) and cuts.spans("c d", 2)
    assert not cuts.spans("abc", 0) and not cuts.spans("abc", 3) and not cuts.spans("bb", 1)


def test_before_a_space_that_the_model_adds_it_is_left_out(monkeypatch):
    monkeypatch.setattr(cutting, "PART_CHARACTERS", 4)
    cuts = Cuts(["\u2581b", "a\u2581d"], begins_with_space=True)
    assert list(cuts.parts("aaaa b aa da a")) == ["aaaa", "b aa da", "a"]
    assert list(cuts.parts("aaaaaaaaa")) == ["aaaaaaaaa", ""]


def test_a_long_text_that_is_spanned_everywhere_is_cut_all_the_same(monkeypatch):
    monkeypatch.setattr(cutting, "PART_CHARACTERS", 100)
    monkeypatch.setattr(cutting, "_SEARCHED", 10)
    parts = list(Cuts(["aa"], begins_with_space=False).parts("a" * 1000))
    assert "".join(parts) == "a" * 1000 and max(map(len, parts)) == 100


def test_the_parts_that_a_model_gets_are_short(vocabularies, monkeypatch):
    monkeypatch.setattr(cutting, "PART_CHARACTERS", 1000)
    lengths = []
    for name, vocabulary in vocabularies.items():
        encode = vocabulary._encode

        def note(text, encode=encode):
            lengths.append(len(text))
            return encode(text)

        monkeypatch.setattr(vocabulary, "_encode", note)
        vocabulary.encode("return text  # two\n" * 2000)
        assert max(lengths) < 1100, name


def test_spans_agrees_with_a_search_for_every_piece():
    pieces = ["ab", "ba", "aab", "b\u2581"]
    cuts = Cuts(pieces, begins_with_space=False)
    for letters in itertools.product("ab ", repeat=5):
        text = "".join(letters)
        shown = text.replace(" ", "\u2581")
        for place in range(len(text) + 1):
            expected = any(
                shown.startswith(piece, begin)
                for piece in pieces
                for begin in range(max(0, place - len(piece) + 1), place)
            )
            assert cuts.spans(text, place) == expected, (text, place)
