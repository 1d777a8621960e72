"""A vocabulary is trained on the training split, and never replaces another one."""

import dataclasses

import pytest
from small_run import on_text

from palmscale.data.vocab.training import train_vocabulary
from palmscale.errors import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return on_text(tmp_path_factory.mktemp("text")).data


def test_the_written_model_is_a_vocabulary_and_the_same_text_gives_the_same(data, tmp_path):
    first = train_vocabulary(data, tmp_path / "a.model", size=300)
    again = train_vocabulary(data, tmp_path / "b.model", size=300)
    assert first.size == 300 and first.digest == again.digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.model", "b.model"]


def test_a_different_model_is_not_replaced(data, tmp_path):
    path = tmp_path / "a.model"
    path.write_bytes(b"another")
    with pytest.raises(UserError, match="a.model"):
        train_vocabulary(data, path, size=300)
    assert path.read_bytes() == b"another" and len(list(tmp_path.iterdir())) == 1


def test_a_folder_is_no_file(data, tmp_path):
    with pytest.raises(UserError, match=str(tmp_path)):
        train_vocabulary(dataclasses.replace(data), tmp_path, size=300)
