import numpy as np
import pytest
import tiny_sentencepiece

from palmscale.data.vocabulary import ByteVocabulary, SentencePieceVocabulary
from palmscale.errors import UserError
from palmscale.interop.carried_vocabulary import read_vocabulary, write_vocabulary


def test_a_vocabulary_comes_back_with_its_files(tmp_path):
    vocabulary = SentencePieceVocabulary(tiny_sentencepiece.train(tmp_path / "v.model"))
    write_vocabulary(vocabulary, tmp_path / "a")
    found = read_vocabulary(tmp_path / "a")
    assert np.array_equal(found.encode("def x"), vocabulary.encode("def x"))


def test_a_folder_without_one_has_none(tmp_path):
    assert read_vocabulary(tmp_path) is None


def test_a_damaged_description_is_told(tmp_path):
    write_vocabulary(ByteVocabulary(), tmp_path)
    (tmp_path / "vocabulary" / "description.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        read_vocabulary(tmp_path)
