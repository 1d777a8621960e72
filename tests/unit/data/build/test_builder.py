import concurrent.futures
import dataclasses
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time

import memory_source
import numpy as np
import pytest
import source_tree

from palmscale.data.build import builder as building
from palmscale.data.build import row_files, spill
from palmscale.data.build.builder import SPILLING, WRITING
from palmscale.data.build.processes import LocalProcesses
from palmscale.data.row_cache import RowCache
from palmscale.data.sources.corpus import Corpus
from palmscale.data.sources.jsonl_parquet import Jsonl
from palmscale.data.vocabulary import ByteVocabulary
from palmscale.errors import UserError

BYTES = ByteVocabulary()
LENGTH = 16


def stream(cache, split="train"):
    split = cache.split(split)
    return split.read(np.arange(split.num_rows))["target"].reshape(-1).tolist()


def files(directory):
    return {
        path.name: path.read_bytes() for path in directory.iterdir() if path.suffix != ".json"
    } | {"manifest": json.loads((directory / "manifest.json").read_text())}


def test_a_second_builder_says_that_it_waits(tmp_path, build):
    told = threading.Event()
    with open(tmp_path / ".c.lock", "w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            second = pool.submit(build, tmp_path / "c", waiting=told.set)
            assert told.wait(60) and not second.done()
            first.close()
            assert second.result().split("train").num_rows


@pytest.mark.parametrize("split", ["train", "validation"])
def test_rows_are_the_documents_by_key_joined_by_eod_and_cut(tmp_path, small_files, build, split):
    cache = build(tmp_path / "c", seed=3)
    documents = memory_source.expected_documents(memory_source.MemorySource(), split, 3)
    joined = [token for ids, _ in documents for token in [*ids, BYTES.eod_id]]
    whole = len(joined) // LENGTH * LENGTH
    assert stream(cache, split) == joined[:whole]
    found = cache.split(split)
    assert found.documents == len(documents) and found.dropped_tail_tokens == len(joined) - whole
    assert found.utf8_bytes == sum(len(ids) for ids, _ in documents)
    assert split == "validation" or len(cache.manifest["splits"][split]["shards"]) > 2


def test_neither_runs_nor_shards_leave_a_trace_in_the_rows(tmp_path, monkeypatch, build):
    plain = stream(build(tmp_path / "a"))
    monkeypatch.setattr(spill, "_RUN_TOKENS", 1)
    assert stream(build(tmp_path / "b")) == plain
    monkeypatch.setattr(row_files, "_FILE_BYTES", 1)
    cache = build(tmp_path / "c")
    assert stream(cache) == plain
    assert len(cache.manifest["splits"]["train"]["shards"]) == cache.split("train").num_rows
    assert stream(build(tmp_path / "d", seed=1)) != plain


def test_several_processes_write_the_same_bytes(tmp_path, build):
    build(tmp_path / "one")
    build(tmp_path / "three", executor=LocalProcesses(3))
    assert files(tmp_path / "one") == files(tmp_path / "three")


@pytest.mark.parametrize("processes", [1, 2])
def test_no_document_is_in_both_splits_and_the_share_is_what_is_asked(tmp_path, build, processes):
    lengths = {"a": 300, "b": 3, "c": 40}  # documents of each file
    for name, count in lengths.items():
        lines = (json.dumps({"text": f"{name}{number:>9}"}) + "\n" for number in range(count))
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    corpus = Corpus(source=Jsonl(files=f"{tmp_path}/*.jsonl"), held_out_fraction=0.05)
    cache = build(
        tmp_path / "c", corpus=corpus, sequence_length=11, executor=LocalProcesses(processes)
    )
    texts = {
        name: {BYTES.decode(row_L) for row_L in np.reshape(stream(cache, name), (-1, 11))}
        for name in ("train", "validation")
    }
    assert not texts["train"] & texts["validation"]
    assert sum(map(len, texts.values())) == sum(lengths.values())
    assert cache.held_out_share == pytest.approx(0.05, rel=0.2)


def test_the_manifest_tells_groups_lengths_sources_and_bad_documents(tmp_path, build):
    source = memory_source.MemorySource(bad=((0, 2), (3, 4)))
    corpus = Corpus(source=source, on_bad_document="skip")
    manifest = build(tmp_path / "c", corpus=corpus).manifest
    train = manifest["splits"]["train"]
    lengths = [len(ids) + 1 for ids, _ in memory_source.expected_documents(source, "train", 0)]
    assert train["documents"] == len(lengths) == 4 * 9 - 2
    assert sum(group["documents"] for group in train["groups"].values()) == len(lengths)
    assert set(train["groups"]) == {"a", "b"}
    counts = np.bincount([int(2 * np.log2(length)) for length in lengths])
    assert train["length_histogram"] == counts.tolist()
    assert manifest["bad_documents"]["count"] == 2
    assert manifest["bad_documents"]["first"][0].startswith("shard0:2: it is bad")
    assert [source["name"] for source in manifest["sources"]] == [f"shard{i}" for i in range(5)]


def test_a_bad_document_is_fatal_unless_asked_otherwise(tmp_path, build):
    with pytest.raises(UserError, match="shard3:4: it is bad"):
        build(tmp_path / "c", corpus=memory_source.corpus(bad=((3, 4),)))
    assert not (tmp_path / "c").exists()


def test_an_error_in_another_process_comes_through(tmp_path, build):
    with pytest.raises(UserError, match="shard3:4: it is bad"):
        corpus = memory_source.corpus(bad=((3, 4),))
        build(tmp_path / "c", corpus=corpus, executor=LocalProcesses(2))


def test_packed_rows_hold_whole_examples_with_loss_on_targets_alone(tmp_path, small_files, build):
    source = memory_source.MemorySource(prompts=True, longest=30)
    options = {"corpus": Corpus(source=source), "packing": "segments", "sequence_length": 32}
    cache = build(tmp_path / "c", **options)
    split = cache.split("train")
    rows = split.read(np.arange(split.num_rows))
    found = []
    for target, segment, position, weight in zip(
        rows["target"], rows["segment"], rows["position"], rows["weight"]
    ):
        for number in range(1, segment.max() + 1):
            here = segment == number
            assert position[here].tolist() == list(range(here.sum()))
            prompt = int((weight[here] == 0).sum())
            assert weight[here].tolist() == [0.0] * prompt + [1.0] * (here.sum() - prompt)
            assert target[here][-1] == BYTES.eod_id
            found.append((target[here][:-1].tolist(), prompt))
        assert (target[segment == 0] == BYTES.pad_id).all() and not weight[segment == 0].any()
    expected = memory_source.expected_documents(source, "train", 0)
    assert sorted(found) == sorted(expected) and len(rows["target"]) < len(expected)
    assert split.is_packed and split.tokens == sum(len(ids) + 1 for ids, _ in expected)
    with pytest.raises(UserError, match="Data.packing='segments'"):
        build(tmp_path / "d", **options | {"packing": "concatenate"})


def test_a_build_goes_on_where_it_was_killed_and_ends_with_the_same_bytes(
    tmp_path, small_files, monkeypatch, build
):
    build(tmp_path / "whole")
    for stop_after in (1, 2, 4, 6):
        calls = []

        def record(path, value, write=spill.write_record, calls=calls, stop_after=stop_after):
            if len(calls) == stop_after:
                raise KeyboardInterrupt
            calls.append(path.name)
            write(path, value)

        with monkeypatch.context() as patch:
            for module in (spill, row_files, building):
                patch.setattr(module, "write_record", record)
            with pytest.raises(KeyboardInterrupt):
                build(tmp_path / f"c{stop_after}")
        with monkeypatch.context() as patch:
            again = []
            for module in (spill, row_files):
                patch.setattr(
                    module,
                    "write_record",
                    lambda p, v, a=again, w=spill.write_record: (a.append(p.name), w(p, v)),
                )
            build(tmp_path / f"c{stop_after}")
        assert not set(again) & set(calls), "what was finished is done once"
        assert files(tmp_path / f"c{stop_after}") == files(tmp_path / "whole")
    assert not list(tmp_path.glob(".*.partial")) and not list(tmp_path.glob(".*.work"))


def test_a_source_that_changed_between_kill_and_rerun_is_read_again(tmp_path, monkeypatch, build):
    with monkeypatch.context() as patch:
        patch.setattr(building, "rows_digest", lambda manifest: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build(tmp_path / "c", corpus=memory_source.corpus(stamp="old"))
    fresh = build(tmp_path / "d", corpus=memory_source.corpus(stamp="new", seed=1))
    assert stream(build(tmp_path / "c", corpus=memory_source.corpus(stamp="new", seed=1))) == (
        stream(fresh)
    )


def test_of_two_builders_at_once_both_get_the_same_whole_cache(tmp_path):
    script = (
        "import sys, memory_source as m; from palmscale.data.build.builder import build_cache;"
        "from palmscale.data.vocabulary import ByteVocabulary;"
        "c = build_cache(corpus=m.corpus(documents=400), vocabulary=ByteVocabulary(),"
        " directory=sys.argv[1], sequence_length=16, seed=0); print(c.digest,"
        " c.split('train').num_rows)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "c")]
    environment = os.environ | {"PYTHONPATH": str(source_tree.CHECKOUT / "tests/support/text")}
    builders = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(3)
    ]
    outputs = {builder.communicate(timeout=60)[0] for builder in builders}
    assert [b.returncode for b in builders] == [0, 0, 0] and len(outputs) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == [".c.lock", "c"]


def test_a_second_builder_tells_the_user_that_it_waits(tmp_path, build, caplog):
    caplog.set_level("INFO", "palmscale")
    with open(tmp_path / ".c.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = threading.Thread(target=build, args=(tmp_path / "c",))
        second.start()
        deadline = time.monotonic() + 60
        while f"Waiting for another process, which is writing {tmp_path}/c" not in caplog.text:
            assert time.monotonic() < deadline, "it did not say so"
            time.sleep(0.01)
        assert not (tmp_path / "c").exists()
    second.join(60)
    assert RowCache.open(tmp_path / "c").digest


def test_a_disk_that_is_full_while_rows_are_written_says_so(tmp_path, build, monkeypatch):
    class Full:
        def __init__(self, path, options):
            pass

        def write(self, record):
            raise RuntimeError("write() failed: No space left on device; writing /c; at byte 3")

    monkeypatch.setattr(row_files.array_record_module, "ArrayRecordWriter", Full)
    match = f"the cache {tmp_path}/c cannot be written .No space left on device.; free space"
    with pytest.raises(UserError, match=match):
        build(tmp_path / "c")
    monkeypatch.undo()
    assert build(tmp_path / "c").digest == build(tmp_path / "d").digest


def test_a_disk_that_is_full_while_documents_are_read_says_so(tmp_path, build):
    (tmp_path / ".c.work").mkdir()
    (tmp_path / ".c.work/unit-000000.train.tokens").symlink_to("/dev/full")
    with pytest.raises(UserError, match="cannot be written .No space left on device."):
        build(tmp_path / "c")


def test_a_killed_builder_leaves_no_process_behind(tmp_path):
    script = (
        "import sys, memory_source as m; from palmscale.data.build.builder import build_cache;"
        "from palmscale.data.build.processes import LocalProcesses;"
        "from palmscale.data.vocabulary import ByteVocabulary;"
        "build_cache(corpus=m.corpus(documents=10**9), vocabulary=ByteVocabulary(),"
        " directory=sys.argv[1], sequence_length=16, seed=0, executor=LocalProcesses(2))"
    )
    environment = os.environ | {"PYTHONPATH": str(source_tree.CHECKOUT / "tests/support/text")}
    builder = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "c")], env=environment, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".c.work/*.tokens")):
        assert builder.poll() is None and time.monotonic() < deadline, "it never began"
        time.sleep(0.02)
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.killpg(builder.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(builder.pid, signal.SIGKILL)
    pytest.fail("a worker outlived its parent")


def test_progress_reaches_the_total_of_both_halves(tmp_path, build):
    calls = []
    build(tmp_path / "c", progress=lambda *call: calls.append(call))
    for what in (SPILLING, WRITING):
        done = [call[1] for call in calls if call[0] == what]
        assert done == sorted(done) and done[-1] > 0
    assert calls[-1][1] == calls[-1][2]


def test_a_corpus_of_bad_documents_alone_names_the_first(tmp_path, build):
    bad = tuple((shard, number) for shard in range(4) for number in range(10))
    corpus = dataclasses.replace(memory_source.corpus(bad=bad), on_bad_document="skip")
    with pytest.raises(UserError, match="corpus is empty: .* Skipped: shard0:0: it is bad$"):
        build(tmp_path / "c", corpus=corpus)


def test_too_little_text_and_wrong_ids_are_refused(tmp_path, build):
    with pytest.raises(UserError, match="Data.sequence_length=100000"):
        build(tmp_path / "c", sequence_length=100_000)
    with pytest.raises(UserError, match="the vocabulary has 259"):
        build(tmp_path / "c0", corpus=memory_source.corpus(below=400))
    with pytest.raises(UserError, match="Data.sequence_length=0"):
        build(tmp_path / "c1", sequence_length=0)
    with pytest.raises(UserError, match="Data.packing='tight'.*'segments'"):
        build(tmp_path / "c2", packing="tight")
    with pytest.raises(UserError, match="corpus is empty"):
        build(tmp_path / "c3", corpus=memory_source.corpus(documents=0))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Data.cache_directory"):
        build(tmp_path / "file" / "c")


def test_a_killed_builds_rest_is_used_up(tmp_path, build):
    (tmp_path / ".c.partial").mkdir()
    (tmp_path / ".c.work").mkdir()
    build(tmp_path / "c")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".c.lock", "c"]
    assert RowCache.open(tmp_path / "c").split("train").num_rows
