import contextlib
import json
import random
import subprocess
import sys
import threading

import memory_source
import numpy as np
import pytest
from fuzzed_checkpoints import changed

from palmscale.data.row_cache import RowCache, rows_digest
from palmscale.data.vocabulary import ByteVocabulary
from palmscale.errors import CorruptionError, UserError

LENGTH = 16


def test_rows_come_in_the_order_asked_for_across_shards(tmp_path, small_files, build):
    split = build(tmp_path / "c").split("train")
    every = split.read(np.arange(split.num_rows))["target"]
    wanted = np.random.default_rng(0).integers(0, split.num_rows, 200)
    assert np.array_equal(split.read(wanted)["target"], every[wanted]) and every.dtype == np.int32
    assert split.read(np.array([], int))["target"].shape == (0, LENGTH)
    for outside in (-1, split.num_rows):
        with pytest.raises(IndexError):
            split.read(np.array([outside]))


def test_packed_rows_bring_their_segments_positions_and_weights(tmp_path, build):
    cache = build(tmp_path / "c", corpus=memory_source.corpus(prompts=True), packing="segments",
                  sequence_length=64)  # fmt: skip
    rows = cache.split("train").read(np.array([1, 0]))
    assert {name: (value.dtype.name, value.shape) for name, value in rows.items()} == {
        "target": ("int32", (2, 64)),
        "segment": ("int32", (2, 64)),
        "position": ("int32", (2, 64)),
        "weight": ("float32", (2, 64)),
    }


def packed(build, folder, **options):
    corpus = memory_source.corpus(prompts=True)
    return build(folder, corpus=corpus, packing="segments", **options)


def test_bytes_per_token_with_loss_are_those_of_completions(tmp_path, build):
    split = packed(build, tmp_path / "c", sequence_length=64).split("train")
    weights = split.read(np.arange(split.num_rows))["weight"]
    # A byte is a token here, and each completion ends with an eod.
    assert split.loss_bytes_per_token == 1 - split.documents / weights.sum()
    assert build(tmp_path / "d").split("train").loss_bytes_per_token < 1


def test_examples_that_do_not_fit_a_row_are_counted(tmp_path, build):
    assert packed(build, tmp_path / "c", sequence_length=64).too_long == ""
    cache = packed(build, tmp_path / "d", sequence_length=16)
    splits = [cache.split(name) for name in ("train", "validation")]
    truncated = sum(split.truncated_documents for split in splits)
    dropped = sum(split.dropped_documents for split in splits)
    assert truncated > 0 < dropped
    assert cache.too_long == (
        f"of 45 examples in rows of 16 tokens, {truncated} longer ones are truncated and {dropped}"
        " whose prompt fills a row are left out"
    )


def test_a_packed_cache_of_0_1_0_opens_and_has_no_bytes_of_completions(tmp_path, build):
    cache = packed(build, tmp_path / "c", sequence_length=64)
    path = tmp_path / "c/manifest.json"
    manifest = json.loads(path.read_text())
    for split in manifest["splits"].values():
        del split["completions"]
    path.write_text(json.dumps(manifest))
    old = RowCache.open(tmp_path / "c")
    assert old.digest == cache.digest and old.split("train").loss_bytes_per_token is None


def test_threads_may_read_at_once(tmp_path, small_files, build):
    split = build(tmp_path / "c").split("train")
    every, wrong = split.read(np.arange(split.num_rows))["target"], []

    def read(seed):
        for rows in np.random.default_rng(seed).integers(0, split.num_rows, (30, 16)):
            if not np.array_equal(split.read(rows)["target"], every[rows]):
                wrong.append(rows)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong


def test_ids_above_65535_come_back(tmp_path, build):
    class Large(ByteVocabulary):
        size = 256_000

    corpus = memory_source.corpus(below=256_000)
    split = build(tmp_path / "c", vocabulary=Large(), corpus=corpus).split("train")
    documents = memory_source.expected_documents(corpus.source, "train", 0)
    largest = max(max(ids) for ids, _ in documents)
    assert split.read(np.arange(split.num_rows))["target"].max() == largest > 65_535


def test_a_flipped_bit_in_a_row_is_refused_on_reading_with_shard_and_row(
    tmp_path, small_files, build, flip
):
    split = build(tmp_path / "c").split("train")
    every = split.read(np.arange(split.num_rows))["target"]
    path = tmp_path / "c" / "train-00001.arrayrecord"
    place = path.read_bytes().find(every[25].astype("<u2").tobytes()[:8])
    assert place > 0
    flip(path, place)
    split = RowCache.open(tmp_path / "c").split("train")
    with pytest.raises(CorruptionError, match=r"train-00001.arrayrecord: row 5 "):
        split.read(np.arange(split.num_rows)[24:27])
    assert np.array_equal(split.read(np.array([0, 24, 26]))["target"], every[[0, 24, 26]])


def test_shards_that_changed_places_are_refused_on_reading(tmp_path, small_files, build):
    build(tmp_path / "c")
    a, b, t = (
        tmp_path / "c" / name
        for name in ("train-00000.arrayrecord", "train-00001.arrayrecord", "t")
    )
    a.rename(t), b.rename(a), t.rename(b)
    with pytest.raises(CorruptionError, match="train-00000"):
        RowCache.open(tmp_path / "c").split("train").read(np.array([3]))


def test_missing_short_and_edited_files_are_refused_on_opening(tmp_path, build):
    build(tmp_path / "c")
    shard, manifest = tmp_path / "c" / "train-00000.arrayrecord", tmp_path / "c" / "manifest.json"
    content, text = shard.read_bytes(), manifest.read_text()
    shard.write_bytes(content[:-100])
    with pytest.raises(CorruptionError, match="train-00000.arrayrecord has"):
        RowCache.open(tmp_path / "c")
    shard.unlink()
    with pytest.raises(CorruptionError, match="train-00000.arrayrecord is missing"):
        RowCache.open(tmp_path / "c")
    shard.write_bytes(content)
    for damaged in (
        text[:200],
        text.replace(f'"sequence_length": {LENGTH}', '"sequence_length": 8'),
        "[]",
        "{}",
    ):
        manifest.write_text(damaged)
        with pytest.raises(UserError, match="manifest.json"):
            RowCache.open(tmp_path / "c")
    manifest.write_text(text.replace('"format": 2', '"format": 99'))
    with pytest.raises(UserError, match="format 99"):
        RowCache.open(tmp_path / "c")
    with pytest.raises(UserError, match="manifest.json"):
        RowCache.open(tmp_path / "none")


def test_reading_a_cache_imports_neither_tensorflow_nor_jax(tmp_path, build):
    build(tmp_path / "c")
    script = (
        "import sys; from palmscale.data.cache import verify; verify(sys.argv[1]);"
        "print([m for m in ('tensorflow', 'seqio', 'jax') if m in sys.modules])"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "c")]
    assert (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_what_was_skipped_is_told_in_documents(tmp_path, build):
    cache = build(tmp_path / "c")
    assert cache.skipped == ""
    for bad, told in (
        ({"count": 1, "first": ["a:2: bad"]}, "1 document, such as a:2: bad"),
        ({"count": 0, "rests": 1, "first": ["b: cut"]}, "the rest of 1 file, such as b: cut"),
        (
            {"count": 1200, "rests": 2, "first": ["a: b"]},
            "1,200 documents and the rest of 2 files, such as a: b",
        ),
    ):
        manifest = cache.manifest | {"bad_documents": bad}
        assert RowCache(cache.directory, manifest).skipped == told


def test_a_manifest_that_someone_changed_is_refused_or_read(tmp_path, small_files, build):
    cache = build(tmp_path / "c")
    path = cache.directory / "manifest.json"
    written, ended = path.read_bytes(), []
    for seed in range(150):
        content = changed(written, random.Random(seed))
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
            manifest = json.loads(content)  # the digest agrees again where there is one
            content = json.dumps(manifest | {"digest": rows_digest(manifest)}).encode()
        path.write_bytes(content)
        try:
            split = RowCache.open(cache.directory).split("train")
            split.read(np.arange(min(split.num_rows, 3)))
            ended.append("read")
        except UserError as error:
            assert "\n" not in str(error)
            ended.append("refused")
    assert ended.count("refused") > 50 and "read" in ended


def test_files_outside_the_cache_are_not_read(tmp_path, build):
    cache = build(tmp_path / "c")
    path = cache.directory / "manifest.json"
    manifest = json.loads(path.read_bytes())
    for name in ("../x", "/etc/passwd"):
        manifest["splits"]["train"]["shards"][0]["name"] = name
        path.write_text(json.dumps(manifest))
        with pytest.raises(CorruptionError, match="expected a relative path inside the folder"):
            RowCache.open(cache.directory)
