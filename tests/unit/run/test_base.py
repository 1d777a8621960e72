"""What a fine-tune takes over from its base: its module, vocabulary and row length."""

import re
import shutil

import forged
import pytest
import tiny_sentencepiece
from small_run import MODEL

from palmscale.data.vocabulary import SentencePieceVocabulary, vocabulary_named
from palmscale.errors import UserError
from palmscale.run.base import base_model, base_sequence_length, base_vocabulary


def test_the_module_is_the_bases_but_for_the_changes(result, workdir):
    assert base_model(str(workdir)) == MODEL
    changed = base_model(str(workdir), {"dropout": 0.1, "remat": ("query",)})
    assert changed == MODEL.clone(dropout=0.1, remat=("query",))
    assert base_sequence_length(str(workdir)) == 32


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"dropot": 0.1}, "has 'dropot', but PaLM has no such field; did you mean dropout?"),
        ({"parent": None}, "has 'parent', but"),
        ({"dropout": "much"}, "PaLM.dropout another type: it is 'much'; expected float"),
        ({"dropout": 2.0}, "PaLM.dropout=2.0 must be in"),
    ],
)
def test_a_change_of_no_field_or_of_another_type_is_refused(result, workdir, changes, told):
    with pytest.raises(UserError, match=re.escape(told)):
        base_model(str(workdir), changes)


@pytest.fixture
def with_sentencepiece(result, workdir, tmp_path):
    """A copy of the run that tells of a SentencePiece vocabulary, and this vocabulary."""
    vocabulary = SentencePieceVocabulary(tiny_sentencepiece.train(tmp_path / "tiny.model"))
    copy = shutil.copytree(workdir, tmp_path / "run")
    forged.edit(
        copy / "checkpoints/4",
        "meta.json",
        lambda meta: meta | {"vocabulary": vocabulary.description()},
    )
    vocabulary.save(copy / "vocabulary")
    return copy, vocabulary


def test_bytes_need_no_file_and_a_sentencepiece_model_is_the_bases_own(with_sentencepiece, workdir):
    assert base_vocabulary(str(workdir)) == "bytes"
    copy, vocabulary = with_sentencepiece
    file = base_vocabulary(str(copy))
    assert file.startswith(str(copy)) and vocabulary_named(file).digest == vocabulary.digest


def test_the_vocabulary_of_a_base_in_a_bucket_is_kept_on_the_disk(
    with_sentencepiece, bucket, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    copy, vocabulary = with_sentencepiece
    for file in copy.rglob("*"):
        if file.is_file():
            bucket.put(f"base/{file.relative_to(copy)}", file.read_bytes())
    for _ in range(2):
        file = base_vocabulary(f"{bucket.url}/base")
        assert file.startswith(str(tmp_path / "cache"))
        assert vocabulary_named(file).digest == vocabulary.digest


def test_no_code_is_imported_for_a_base_of_the_users_own(result, workdir, tmp_path):
    (tmp_path / "never_imported.py").write_text("raise SystemExit")
    copy = shutil.copytree(workdir, tmp_path / "run")

    def change(meta):
        model = {"class": "never_imported:Model"}
        return meta | {"identity": meta["identity"] | {"model": model}}

    forged.edit(copy / "checkpoints/4", "meta.json", change)
    with pytest.raises(UserError, match="never_imported:'Model'.* Import the module .* Run.model"):
        base_model(str(copy))


def test_a_folder_without_checkpoints_is_no_base(tmp_path):
    for function in (base_model, base_vocabulary, base_sequence_length):
        with pytest.raises(UserError, match="base_model.workdir=.* is no base: there is no run in"):
            function(str(tmp_path))
