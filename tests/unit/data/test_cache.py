import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from palmscale.data import cache as caching
from palmscale.data import sources, tasks
from palmscale.data.cache import RowCache, open_or_build, verify
from palmscale.data.sources import Corpus
from palmscale.data.vocab import ByteVocabulary
from palmscale.errors import CorruptionError, UserError

LENGTH = 16
BYTES = ByteVocabulary()


def bypass_seqio(monkeypatch):
    """Takes documents straight from the sources: SeqIO's part is tested in test_tasks.py."""

    def documents(corpus, vocabulary, split):
        for _, text in sources.documents(corpus, split):
            yield vocabulary.encode(text), len(text.encode())

    monkeypatch.setattr(tasks, "import_seqio", lambda: None)
    monkeypatch.setattr(tasks, "documents", documents)


@pytest.fixture
def without_tensorflow(monkeypatch):
    bypass_seqio(monkeypatch)


def open_text(tmp_path, **options):
    defaults = {
        "corpus": Corpus(text_files=str(tmp_path / "*.txt")),
        "vocabulary": BYTES,
        "seed": 0,
    }
    defaults |= {"sequence_length": LENGTH, "cache_directory": tmp_path / "caches"}
    return open_or_build(**(defaults | options))


@pytest.fixture
def texts(tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.txt").write_text(f"the text of file {i}, " * 9)
    return tmp_path


def test_rows_hold_every_document_once_and_the_counts_add_up(tmp_path, small_shards, build):
    split = build(tmp_path / "c").split("train")
    documents = [ids.tolist() for ids, _ in build.documents()]
    tokens = split.read(np.arange(split.num_rows)).reshape(-1).tolist()
    assert len(split._shards) > 2 and split.documents == 40
    assert split.tokens == len(tokens) == split.num_rows * LENGTH
    assert split.tokens + split.dropped_tail_tokens == sum(len(d) + 1 for d in documents)
    assert 0 <= split.dropped_tail_tokens < LENGTH and split.utf8_bytes == sum(map(len, documents))
    found = "".join(map(chr, tokens)).split(chr(BYTES.eod_id))
    whole = {"".join(map(chr, d)) for d in documents}
    assert set(found[:-1]) <= whole and len(found) >= len(documents) - 2


def test_the_digest_is_of_rows_not_of_paths_or_shards(tmp_path, monkeypatch, build):
    first = build(tmp_path / "a").digest
    assert build(tmp_path / "b", seed=1).digest != first
    assert build(tmp_path / "c", sequence_length=8).digest != first
    monkeypatch.setattr(caching, "_SHARD_BYTES", 20 * LENGTH * 2)
    assert build(tmp_path / "d", corpus={"kind": "other"}).digest == first
    shutil.move(tmp_path / "d", tmp_path / "e")
    assert RowCache.open(tmp_path / "e").digest == verify(tmp_path / "e").digest == first


@pytest.mark.parametrize("part", ["train-00001.arrayrecord", "validation-00000.arrayrecord"])
def test_a_flipped_bit_anywhere_in_a_shard_is_found_by_verify(
    tmp_path, small_shards, part, build, flip
):
    build(tmp_path / "c")
    for place in (5, 66_000, -30, -1):
        flip(tmp_path / "c" / part, place)
        with pytest.raises(CorruptionError, match=part):
            verify(tmp_path / "c")
        flip(tmp_path / "c" / part, place)
    verify(tmp_path / "c")


def test_a_failed_build_leaves_nothing_and_a_killed_ones_rest_is_cleared(tmp_path, build):
    def failing():
        yield from build.documents(3)
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError):
        build(tmp_path / "c", documents={"train": failing(), "validation": []})
    (tmp_path / ".c.partial-killed").mkdir()
    assert [p.name for p in tmp_path.iterdir() if "partial" not in p.name] == [".c.lock"]
    build(tmp_path / "c")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".c.lock", "c"]


def test_of_two_builders_at_once_both_get_the_same_whole_cache(tmp_path):
    script = (
        "import sys, numpy as np; from palmscale.data.cache import build_cache;"
        "from palmscale.data.vocab import ByteVocabulary;"
        "d = [(np.full(50, 9 + i % 200, np.int32), 50) for i in range(2000)];"
        "c = build_cache(documents={'train': d}, vocabulary=ByteVocabulary(),"
        " directory=sys.argv[1], sequence_length=16, seed=0); print(c.digest,"
        " c.split('train').num_rows)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "c")]
    builders = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = {builder.communicate(timeout=60)[0] for builder in builders}
    assert [b.returncode for b in builders] == [0, 0, 0] and len(outputs) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == [".c.lock", "c"]


def test_progress_reaches_the_total_of_bytes(tmp_path, build):
    calls, size = [], sum(n for _, n in [*build.documents(), *build.documents(5, seed=1)])
    build(
        tmp_path / "c",
        files=[{"name": "f", "bytes": size}],
        progress=lambda *call: calls.append(call),
    )
    assert calls[-1] == (size, size) and calls == sorted(calls)


def test_too_little_text_and_wrong_ids_are_refused(tmp_path, build):
    with pytest.raises(UserError, match="SEQUENCE_LENGTH=100,000"):
        build(tmp_path / "c", sequence_length=100_000)
    with pytest.raises(UserError, match="from 259 to 259"):
        build(tmp_path / "c", documents={"train": [(np.full(40, 259, np.int32), 40)]})
    with pytest.raises(UserError, match="SEQUENCE_LENGTH=0"):
        build(tmp_path / "c", sequence_length=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="CACHE_DIRECTORY"):
        build(tmp_path / "file" / "c")


def test_a_second_opening_builds_nothing_and_changed_text_or_settings_build_anew(
    texts, without_tensorflow
):
    first = open_text(texts)
    stamp = os.stat(first.directory / "manifest.json").st_mtime_ns
    assert open_text(texts).directory == first.directory
    assert os.stat(first.directory / "manifest.json").st_mtime_ns == stamp
    others = {open_text(texts, sequence_length=8).directory, open_text(texts, seed=1).directory}
    (texts / "3.txt").write_text("other text " * 9)
    others.add(open_text(texts).directory)
    assert len(others) == 3 and first.directory not in others
    files = json.loads((first.directory / "manifest.json").read_text())["files"]
    assert [file["name"] for file in files] == [f"{i}.txt" for i in range(5)]


def test_a_damaged_cache_is_refused_and_not_built_over(texts, without_tensorflow, caplog):
    directory = open_text(texts).directory
    (directory / "train-00000.arrayrecord").unlink()
    with pytest.raises(CorruptionError, match="train-00000.arrayrecord is missing"):
        open_text(texts)
    assert "the only cache" not in caplog.text


def test_a_copied_cache_opens_where_the_text_is_absent(texts, without_tensorflow, caplog):
    first = open_text(texts)
    for path in texts.glob("*.txt"):
        path.unlink()
    assert open_text(texts).digest == first.digest
    assert "matches no file" in caplog.text
    with pytest.raises(UserError, match="matches no file"):
        open_text(texts, sequence_length=8)


def test_without_seqio_a_built_cache_opens_and_a_missing_one_says_where_to_build(
    texts, monkeypatch, caplog
):
    with monkeypatch.context() as patch:
        bypass_seqio(patch)
        first = open_text(texts)
    monkeypatch.setattr(tasks, "_ready", [])
    monkeypatch.setitem(sys.modules, "seqio", None)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert open_text(texts).digest == first.digest
    with pytest.raises(UserError, match="'seqio'.*palmscale data build.*pip install palmscale"):
        open_text(texts, sequence_length=8)
    (texts / "3.txt").write_text("other text " * 9)
    assert open_text(texts).digest == first.digest
    assert "the only cache of this definition" in caplog.text
