import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_sentencepiece
import tiny_tokenizer

from palmscale.data.dataset import Component, Data
from palmscale.data.open import (
    cache_directory,
    is_packed,
    local_processes,
    open_caches,
    open_or_build,
    training_rows,
    vocabulary_of,
)
from palmscale.data.row_cache import RowCache
from palmscale.data.sources.corpus import Corpus
from palmscale.data.sources.jsonl_parquet import Jsonl, Parquet, Pile
from palmscale.data.sources.text_files import SourceDirectories, TextFiles
from palmscale.data.stream import BatchSchedule
from palmscale.data.vocabulary import SentencePieceVocabulary
from palmscale.errors import UserError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for name in "abc":
        (folder / f"{name}.txt").write_text(f"{name} " * 200)
    return Data(
        corpus=Corpus(source=TextFiles(files=f"{folder}/*.txt"), held_out_fraction=0.1),
        sequence_length=32,
        seed=0,
        cache_directory=str(tmp_path_factory.mktemp("caches")),
    )


@pytest.fixture(scope="module")
def folder(data):
    """The folder of the built cache. Not to be written to."""
    return open_or_build(data).directory


def test_a_cache_is_built_once(data, folder):
    built = (folder / "manifest.json").stat().st_mtime_ns
    assert open_or_build(data).directory == folder
    assert (folder / "manifest.json").stat().st_mtime_ns == built


def test_what_is_waited_for_is_told(data, tmp_path):
    told, elsewhere = [], dataclasses.replace(data, cache_directory=str(tmp_path))
    open_caches(elsewhere, executor=local_processes(1), waits_for=told.append)
    assert told[0].startswith("the text /") and told[0].endswith("/a.txt")
    assert {"rows (reading documents)", "rows (writing rows)"} <= set(told)


def test_a_named_cache_must_have_the_sequence_length(data, folder):
    named = dataclasses.replace(data, cache=str(folder))
    assert open_or_build(named).digest == RowCache.open(folder).digest
    longer = dataclasses.replace(named, sequence_length=64)
    with pytest.raises(UserError, match="Data.cache=.*32 tokens, but Data.sequence_length=64"):
        open_or_build(longer)


def test_the_caches_of_a_mixture_are_opened_by_component_and_must_match(data, folder):
    parts = [Component(name=name, weight=1, cache=str(folder)) for name in "ab"]
    mixture = dataclasses.replace(data, corpus=None, components=tuple(parts))
    opened = {name: cache.directory for name, cache in open_caches(mixture).items()}
    assert opened == {"a": folder, "b": folder}
    assert list(open_caches(data)) == [""]
    with pytest.raises(UserError, match="Data.sequence_length=64"):
        open_caches(dataclasses.replace(mixture, sequence_length=64))


def test_rows_are_packed_as_the_data_or_its_cache_says(data, folder):
    assert not is_packed(data) and is_packed(dataclasses.replace(data, packing="segments"))
    assert not is_packed(dataclasses.replace(data, packing="segments", cache=str(folder)))


def test_import_modules_are_imported_before_the_text_is_read(data, tmp_path, monkeypatch):
    (tmp_path / "my_source_module.py").write_text("imported = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_source_module", raising=False)
    open_or_build(dataclasses.replace(data, import_modules=("my_source_module",)))
    assert sys.modules["my_source_module"].imported
    with pytest.raises(UserError, match="Data.import_modules contains 'no_such_module'"):
        open_or_build(dataclasses.replace(data, import_modules=("no_such_module",)))
    (tmp_path / "my_broken_module.py").write_text("1 / 0\n")
    with pytest.raises(UserError, match="'my_broken_module', which cannot be .*division by zero"):
        open_or_build(dataclasses.replace(data, import_modules=("my_broken_module",)))


def test_another_number_of_processes_builds_the_same_rows(data, folder, tmp_path):
    elsewhere = dataclasses.replace(data, cache_directory=str(tmp_path))
    cache = open_or_build(elsewhere, executor=local_processes(2))
    assert cache.digest == RowCache.open(folder).digest


def mixture_of(data, **weights):
    """A mixture whose components are the folders of text named by the weights."""
    parts = [
        Component(
            name=name,
            weight=weight,
            corpus=Corpus(source=TextFiles(files=f"{name}/*.txt"), held_out_fraction=0.0),
        )
        for name, weight in weights.items()
    ]
    return dataclasses.replace(data, corpus=None, components=tuple(parts))


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("full", "more"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(f"{name} " * 100)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/a.txt").write_text("")


def test_what_is_wrong_with_a_component_names_it(data, folders):
    with pytest.raises(UserError, match="^the component empty: the corpus is empty"):
        open_caches(mixture_of(data, full=1, empty=1))
    with pytest.raises(UserError, match="^the component none: .* matches no file"):
        open_caches(mixture_of(data, full=1, none=1))


def test_a_component_of_weight_zero_is_not_built(data, folders):
    mixture = mixture_of(data, full=1, none=0, empty=((0, 0), (5, 0)), more=((0, 0), (5, 1)))
    opened = open_caches(mixture)
    assert sorted(opened) == ["full", "more"]
    rows = training_rows(mixture, opened, BatchSchedule(((0, 4),)))
    assert set(rows.names(np.arange(20))) == {"full"}
    assert set(rows.names(np.arange(20, 200))) == {"full", "more"}
    assert mixture.weights_at(5) == {"full": 1, "more": 1}


def test_a_weight_that_rows_cannot_follow_is_refused_before_text_is_read(data, folders):
    with pytest.raises(UserError, match="the component none would get 1 of 4,096 rows"):
        open_caches(mixture_of(data, full=100_000, none=1))


def test_the_share_that_is_held_out_is_said(data, caplog):
    caplog.set_level("INFO", "palmscale")
    third = Corpus(source=data.corpus.source, held_out_fraction=0.3)
    open_caches(dataclasses.replace(data, corpus=third))
    assert "held out (33.3% of the text)" in caplog.text


@pytest.mark.parametrize(
    "source",
    [
        TextFiles(files=("~/a/*.txt",)),
        SourceDirectories(directories="~/a"),
        Jsonl(files="~/a/a.jsonl"),
        Pile(files="~/a/*.jsonl"),
        Parquet(files="~/a/a.parquet"),
    ],
    ids=lambda source: type(source).__name__,
)
def test_the_path_of_a_source_may_begin_with_the_home_folder(source, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a").mkdir()
    for name in ("a.txt", "a.py", "a.jsonl", "a.parquet"):
        (tmp_path / "a" / name).write_text('{"text": "a"}\n')
    assert source.shards()


def test_other_paths_of_data_may_begin_with_the_home_folder(data, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "rows").symlink_to(folder)
    tiny_sentencepiece.train(tmp_path / "m")
    assert open_or_build(dataclasses.replace(data, cache="~/rows")).directory == tmp_path / "rows"
    assert SentencePieceVocabulary("~/m").size == SentencePieceVocabulary(f"{tmp_path}/m").size
    moved = dataclasses.replace(data, cache_directory="~/c")
    assert cache_directory(moved) == tmp_path / "c"


def test_without_a_folder_of_their_own_rows_lie_in_the_users_cache(data, tmp_path):
    unset = dataclasses.replace(data, cache_directory=None)
    assert cache_directory(unset, tmp_path) == tmp_path / "data"
    assert cache_directory(unset) == Path("~/.cache/palmscale/data").expanduser()


def test_rows_of_a_tokenizer_are_stored_with_it(data, tmp_path):
    path = tiny_tokenizer.write(tmp_path / "tokenizer", pad_token="<|padding|>")
    named = dataclasses.replace(data, vocabulary=path, cache_directory=str(tmp_path / "caches"))
    vocabulary = vocabulary_of(named)
    built = open_or_build(named, executor=local_processes(2))
    again = RowCache.open(built.directory)
    assert again.vocabulary.digest == vocabulary.digest
    split = again.split("train")
    rows = split.read(np.arange(split.num_rows))["target"].reshape(-1)
    documents = np.split(rows, np.flatnonzero(rows == vocabulary.eod_id) + 1)
    assert vocabulary.decode(documents[1]) in {f"{letter} " * 200 for letter in "abc"}
    assert vocabulary_of(dataclasses.replace(data, cache=str(built.directory))).eod_id == 0
    other = dataclasses.replace(named, vocabulary="raw_bytes")
    assert open_or_build(other, executor=local_processes(1)).directory != built.directory
