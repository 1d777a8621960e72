import dataclasses
import sys
from pathlib import Path

import pytest
import tiny_sentencepiece

from palmscale.data.dataset import Component, Data
from palmscale.data.open import (
    cache_directory,
    is_packed,
    local_processes,
    open_caches,
    open_or_build,
)
from palmscale.data.row_cache import RowCache
from palmscale.data.sources.corpus import Corpus
from palmscale.data.sources.jsonl_parquet import Jsonl, Parquet, Pile
from palmscale.data.sources.text_files import SourceDirectories, TextFiles
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


def test_another_number_of_processes_builds_the_same_rows(data, folder, tmp_path):
    elsewhere = dataclasses.replace(data, cache_directory=str(tmp_path))
    cache = open_or_build(elsewhere, executor=local_processes(2))
    assert cache.digest == RowCache.open(folder).digest


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
