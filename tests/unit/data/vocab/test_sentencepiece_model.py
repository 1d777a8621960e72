import keyword

import pytest

from palmscale.data.vocab import check
from palmscale.data.vocab.sentencepiece_model import MODEL_TYPES, train_model
from palmscale.data.vocabulary import SentencePieceVocabulary
from palmscale.errors import UserError

WORDS = [*keyword.kwlist, *dir(str), *dir(int), *dir(dict)]
TEXTS = [
    f"def {a}({b}):\n    return {c} + {number}\n"
    for number, (a, b, c) in enumerate(zip(WORDS, WORDS[3:], WORDS[7:]))
]


@pytest.fixture(scope="module", params=MODEL_TYPES)
def model(request):
    return train_model(TEXTS, size=400, model_type=request.param)


@pytest.fixture
def vocabulary(model, tmp_path):
    (tmp_path / "m.model").write_bytes(model)
    return SentencePieceVocabulary(str(tmp_path / "m.model"))


def test_a_model_has_the_size_and_the_ids_of_palms_vocabulary(vocabulary):
    assert vocabulary.size == 400
    assert (vocabulary.pad_id, vocabulary.eod_id, vocabulary.bos_id) == (0, 1, 0)


def test_a_model_passes_every_check(vocabulary):
    assert len(check.check(vocabulary)) == 6


def test_a_model_has_learned_the_text(vocabulary):
    text = "".join(TEXTS)
    assert len(vocabulary.encode(text)) < 0.6 * len(text)
    assert any("return" in piece for piece in vocabulary.pieces())


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_same_texts_give_the_same_model(model_type):
    first = train_model(TEXTS, size=400, model_type=model_type)
    assert train_model(iter(TEXTS), size=400, model_type=model_type) == first
    assert train_model(TEXTS[1:], size=400, model_type=model_type) != first


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_too_little_text_is_one_line_with_a_size_that_works(model_type):
    with pytest.raises(
        UserError, match="^size=256000 is too large: the text yields only "
    ) as caught:
        train_model(TEXTS, size=256_000, model_type=model_type)
    assert "\n" not in str(caught.value)
    size = int(str(caught.value).rpartition("size=")[2].rstrip("."))
    assert train_model(TEXTS, size=size, model_type=model_type)


def test_too_small_a_size_is_one_line_with_one_that_works():
    texts = ["".join(map(chr, range(0x4E00, 0x4E00 + 200))) * 20]
    with pytest.raises(UserError, match="^size=300 is too small: the characters") as caught:
        train_model(texts, size=300)
    assert "size=459 or more" in str(caught.value)
    assert train_model([*texts, *TEXTS], size=600)


@pytest.mark.parametrize("texts", [[], [""], ["\n", ""], ["\u2047"]])
def test_no_text_is_one_line(texts):
    with pytest.raises(UserError, match="^there is no text to train on"):
        train_model(texts, size=300)


def test_words_of_any_length_and_any_characters_are_taken():
    hostile = [*check.ADVERSARIAL_TEXTS, *check.random_texts(20), "語" * 200_000]
    assert train_model([*TEXTS, *hostile], size=600)


def test_a_text_with_sentencepieces_own_sign_is_learned_from(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(train_model([f"\u2047 {text} \u2047" for text in TEXTS], size=400))
    assert any("return" in piece for piece in SentencePieceVocabulary(str(path)).pieces())
