import json
import os
import shutil

import numpy as np
import pytest

from palmscale.data import cache as caching
from palmscale.data.build.processes import LocalProcesses
from palmscale.data.cache import RowCache, find_or_build, verify
from palmscale.data.sources.corpus import Corpus
from palmscale.data.sources.held_out import SplitOf
from palmscale.data.sources.jsonl_parquet import Jsonl
from palmscale.data.sources.text_files import SourceDirectories, TextFiles
from palmscale.data.vocabulary import ByteVocabulary
from palmscale.errors import CorruptionError, UserError

LENGTH = 16
BYTES = ByteVocabulary()


def open_text(tmp_path, **options):
    defaults = {
        "corpus": Corpus(source=TextFiles(files=str(tmp_path / "*.txt")), held_out_fraction=0.2),
        "vocabulary": BYTES,
        "seed": 0,
    }
    defaults |= {"sequence_length": LENGTH, "cache_directory": tmp_path / "caches"}
    return find_or_build(**(defaults | options))


@pytest.fixture
def texts(tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.txt").write_text(f"the text of file {i}, " * 9)
    return tmp_path


def test_the_digest_is_of_rows_not_of_paths(tmp_path, build):
    first = build(tmp_path / "a").digest
    assert build(tmp_path / "b", seed=1).digest != first
    assert build(tmp_path / "c", sequence_length=8).digest != first
    assert build(tmp_path / "d").digest == first
    shutil.move(tmp_path / "d", tmp_path / "e")
    assert RowCache.open(tmp_path / "e").digest == verify(tmp_path / "e").digest == first


@pytest.mark.parametrize("part", ["train-00001.arrayrecord", "validation-00000.arrayrecord"])
def test_a_flipped_bit_anywhere_in_a_shard_is_found_by_verify(
    tmp_path, small_files, part, build, flip
):
    build(tmp_path / "c")
    for place in (5, 66_000, -30, -1):
        flip(tmp_path / "c" / part, place)
        with pytest.raises(CorruptionError, match=part):
            verify(tmp_path / "c")
        flip(tmp_path / "c" / part, place)
    verify(tmp_path / "c")


def test_verify_counts_every_byte_and_may_use_several_processes(tmp_path, small_files, build):
    cache, calls = build(tmp_path / "c", packing="segments", sequence_length=64), []
    size = sum(path.stat().st_size for path in (tmp_path / "c").glob("*.arrayrecord"))
    verify(tmp_path / "c", progress=lambda *call: calls.append(call))
    assert size - 100 < calls[-1][1] <= calls[-1][2] == size
    assert verify(tmp_path / "c", LocalProcesses(2)).digest == cache.digest


def test_rows_that_are_whole_but_not_those_of_the_manifest_are_found(tmp_path, build):
    build(tmp_path / "a"), build(tmp_path / "b", seed=1)
    stored, other = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in "ab")
    shutil.copy(tmp_path / "b/train-00000.arrayrecord", tmp_path / "a")
    shards = other["splits"]["train"]["shards"]
    stored["splits"]["train"]["shards"] = shards
    (tmp_path / "a/manifest.json").write_text(json.dumps(stored))
    with pytest.raises(CorruptionError, match="the rows of 'train' differ from the manifest"):
        verify(tmp_path / "a")


def test_a_second_opening_builds_nothing_and_changed_text_or_settings_build_anew(texts, caplog):
    first = open_text(texts)
    stamp = os.stat(first.directory / "manifest.json").st_mtime_ns
    assert open_text(texts).directory == first.directory
    assert os.stat(first.directory / "manifest.json").st_mtime_ns == stamp
    others = {
        open_text(texts, sequence_length=8).directory,
        open_text(texts, seed=1).directory,
        open_text(texts, packing="segments").directory,
    }
    assert not caplog.text
    (texts / "3.txt").write_text("other text " * 9)
    others.add(open_text(texts).directory)
    assert len(others) == 4 and first.directory not in others
    assert f"3.txt has changed since {first.directory} was built" in caplog.text
    sources = json.loads((first.directory / "manifest.json").read_text())["sources"]
    assert [source["name"] for source in sources] == [f"{i}.txt" for i in range(5)]


def test_a_changed_file_of_a_large_corpus_is_refused_and_a_touched_one_is_not(texts, monkeypatch):
    monkeypatch.setattr(caching, "_HASHED_BYTES", 0)
    first = open_text(texts)
    os.utime(texts / "3.txt", (1, 1))
    assert open_text(texts).directory == first.directory
    (texts / "3.txt").write_text((texts / "3.txt").read_text().upper())
    with pytest.raises(UserError, match="3.txt has changed since .*Data.cache="):
        open_text(texts)


def test_a_damaged_cache_is_refused_and_not_built_over(texts, caplog):
    directory = open_text(texts).directory
    (directory / "train-00000.arrayrecord").unlink()
    with pytest.raises(CorruptionError, match="train-00000.arrayrecord is missing"):
        open_text(texts)
    assert "the only cache" not in caplog.text


def test_a_copied_cache_opens_where_the_text_is_absent(texts, caplog):
    first = open_text(texts)
    for path in texts.glob("*.txt"):
        path.unlink()
    assert open_text(texts).digest == first.digest
    assert "matches no file" in caplog.text
    with pytest.raises(UserError, match="matches no file"):
        open_text(texts, sequence_length=8)


def test_text_comes_back_from_the_rows(texts):
    cache = open_text(texts, sequence_length=1)
    found = set()
    for name in ("train", "validation"):
        split = cache.split(name)
        tokens = split.read(np.arange(split.num_rows))["target"].reshape(-1)
        ends = np.flatnonzero(tokens == BYTES.eod_id) + 1
        found |= {BYTES.decode(document) for document in np.split(tokens, ends)[:-1]}
    assert found == {f"the text of file {i}, " * 9 for i in range(5)}


def test_a_cache_that_holds_out_nothing_says_so(texts, caplog):
    assert open_text(texts).held_out_share == pytest.approx(0.2) and not caplog.text
    source = TextFiles(files=str(texts / "*.txt"))
    open_text(texts, corpus=Corpus(source=source, held_out_fraction=0.05))
    assert "nothing is held out" in caplog.text
    assert "Corpus.held_out_fraction=0.05" in caplog.text


def test_a_cache_that_an_earlier_version_split_otherwise_is_kept_and_says_so(
    texts, caplog, monkeypatch
):
    most = SplitOf(units=frozenset({"0.txt", "1.txt", "2.txt"}))
    monkeypatch.setattr(Corpus, "split_of", lambda corpus, shards: most)
    first = open_text(texts)
    monkeypatch.undo()
    caplog.clear()
    assert open_text(texts).digest == first.digest
    assert f"{first.directory} holds out" in caplog.text and "delete it" in caplog.text


@pytest.mark.parametrize(
    ("source", "packing", "name"),
    [
        (TextFiles(files="text/*.txt"), "concatenate", "textfiles-dc4751df757d-3aa6703b16ab"),
        (
            SourceDirectories(directories="text", suffixes=(".txt",)),
            "concatenate",
            "sourcedirectories-c63d89e574eb-3aa6703b16ab",
        ),
        (
            Jsonl(files=("text/*.jsonl",), group_key="set"),
            "concatenate",
            "jsonl-04548cff73b6-ed73c4632cf6",
        ),
        (
            Jsonl(files=("text/*.jsonl",), prompt_key="set"),
            "segments",
            "jsonl-22a9f42e93c3-ed73c4632cf6",
        ),
    ],
)
def test_caches_of_version_0_1_0_are_found(tmp_path, monkeypatch, source, packing, name):
    """The names are those that version 0.1.0 gave to the caches of the same text."""
    (tmp_path / "text").mkdir()
    (tmp_path / "text/a.txt").write_text("alpha beta\n" * 40)
    (tmp_path / "text/c.txt").write_text("delta\n" * 50)
    lines = [{"text": f"line {i} of the text", "set": "ab"[i % 2]} for i in range(200)]
    (tmp_path / "text/x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.chdir(tmp_path)
    cache = find_or_build(
        corpus=Corpus(source=source, held_out_fraction=0.1),
        vocabulary=ByteVocabulary(),
        sequence_length=32,
        seed=3,
        packing=packing,
        cache_directory=tmp_path / "caches",
    )
    assert cache.directory.name == name
