import pytest
import tiny_sentencepiece

from palmscale.data.vocabulary import SentencePieceVocabulary
from palmscale.errors import UserError
from palmscale.interop.sentencepiece_bpe import read_bpe, splits


def vocabulary(folder, **options):
    path = tiny_sentencepiece.train(folder / "x.model", **{"model_type": "bpe"} | options)
    return SentencePieceVocabulary(path)


def test_merges_are_in_the_order_of_their_products(tmp_path):
    bpe = read_bpe(vocabulary(tmp_path))
    products = [first + second for first, second in bpe.merges()]
    scores = [bpe.scores[bpe.pieces.index(product)] for product in products]
    assert scores == sorted(scores, reverse=True)
    assert "</s>" not in products and "<0x41>" not in products


def test_special_pieces_are_told_apart(tmp_path):
    bpe = read_bpe(vocabulary(tmp_path))
    assert bpe.control == [0, 1] and bpe.unknown == 2 and not bpe.adds_space
    assert [bpe.pieces[n] for n in bpe.byte_ids[:2]] == ["<0x00>", "<0x01>"]
    assert read_bpe(vocabulary(tmp_path, add_dummy_prefix=True)).adds_space


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (dict(model_type="unigram"), "is not BPE"),
        (dict(normalization_rule_name="nmt_nfkc"), r"normalizes text \(nmt_nfkc\)"),
        (dict(remove_extra_whitespaces=True), "removes spaces"),
        (dict(user_defined_symbols=["<tool>"]), "has user-defined pieces"),
        (dict(byte_fallback=False), "has no pieces for the 256 bytes"),
        (dict(treat_whitespace_as_suffix=True), "takes spaces as suffixes"),
    ],
)
def test_a_model_that_other_programs_read_otherwise_is_refused_by_name(options, reason, tmp_path):
    with pytest.raises(UserError, match=f"the vocabulary's SentencePiece model {reason}"):
        read_bpe(vocabulary(tmp_path, **options))


def test_a_piece_is_cut_at_each_place():
    assert list(splits("abc")) == [("a", "bc"), ("ab", "c")]
