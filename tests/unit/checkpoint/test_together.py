"""Several processes on the files of one step: each has its share, and all come to one answer."""

import concurrent.futures
import json
import types

import board
import pytest

from palmscale.checkpoint import digest
from palmscale.checkpoint.together import check_step, finish_step
from palmscale.errors import CorruptionError

NAMES = [f"file{number}" for number in range(5)]


def each(peers, do):
    """What `do` returns or raises for each process, all at once."""

    def one(own):
        try:
            return do(own)
        except Exception as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(len(peers)) as pool:
        return list(pool.map(one, peers))


@pytest.fixture
def step(tmp_path):
    folder = tmp_path / "10"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_text(name * 10)
    return folder


def finish(peers, step, committed=lambda own: None, extra=types.MappingProxyType({"step": 10})):
    return each(
        peers,
        lambda own: finish_step(
            own, step, committed=lambda: committed(own), extra=extra, timeout_seconds=5
        ),
    )


@pytest.mark.parametrize("count", [1, 3])
def test_the_manifest_is_that_of_a_single_process(count, step):
    assert finish(board.peers(count), step) == [None] * count
    manifest = digest.check(step)
    assert list(manifest["files"]) == NAMES and manifest["step"] == 10
    assert manifest["files"] == digest.file_digests(step, NAMES)


def test_each_process_reads_its_share_alone(step, monkeypatch):
    read, real = [], digest.file_digests
    monkeypatch.setattr(digest, "file_digests", lambda d, n: read.append(list(n)) or real(d, n))
    finish(board.peers(2), step)
    assert sorted(read) == [["file0", "file2", "file4"], ["file1", "file3"]]


def test_a_failure_of_one_is_that_of_all_by_name_and_nothing_is_verified(step):
    def committed(own):
        if own.index == 1:
            raise OSError("disk full\nmore")

    for error in finish(board.peers(2), step, committed):
        assert isinstance(error, RuntimeError) and str(error) == "process 1 on b: disk full"
    assert not (step / digest.VERIFIED).exists()


def test_what_cannot_be_written_in_the_manifest_fails_all_as_well(step):
    for error in finish(board.peers(2), step, extra={"bad": object()}):
        assert isinstance(error, RuntimeError) and "not JSON serializable" in str(error)


def test_a_damage_that_one_process_finds_is_found_by_all(step):
    peers = board.peers(3)
    finish(peers, step)
    assert [m["step"] for m in each(peers, lambda own: check_step(own, step, 5))] == [10] * 3
    (step / "file4").write_text("damaged")
    for error in each(board.peers(3), lambda own: check_step(own, step, 5)):
        assert isinstance(error, CorruptionError) and "file4 has 7 bytes" in str(error)


def test_what_is_said_is_json_of_strings(step):
    made = board.Board()
    finish(board.peers(2, made), step)
    assert all(isinstance(json.loads(value), (dict, list)) for value in made.values.values())
