"""The end of a save: a step is marked only if all that was written is there."""

import pytest

from palmscale.checkpoint import commit, digest
from palmscale.checkpoint.lease import Lease
from palmscale.checkpoint.steps import StepFolders
from palmscale.cluster.jointly import ALONE

ARRAY = {"shape": [1], "dtype": "float32", "fingerprint": "0" * 16}


class Response:
    """Arrays that are written when they are waited for."""

    def __init__(self, path, names=("params/d/0", "optimizer/d/0"), error=None):
        self.path, self.names, self.error = path, names, error

    def result(self):
        for name in self.names:
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            (self.path / name).write_bytes(b"1234")
        if self.error is not None:
            raise self.error


@pytest.fixture
def end_of_save(tmp_path):
    folders = StepFolders(tmp_path)

    def end(**response):
        with Lease(tmp_path) as lease:
            commit.commit(
                folders,
                8,
                Response(tmp_path / "8", **response),
                {"meta.json": "{}"},
                {"step": 8, "arrays": {"params": {"w": ARRAY}, "optimizer": {"m": ARRAY}}},
                lease=lease,
                peers=ALONE,
                timeout_seconds=1,
            )
        return folders

    return end


def test_what_was_written_is_digested_and_marked(end_of_save):
    folders = end_of_save()
    assert folders.state(8) == "verified" and folders.damages(8) == []
    files = digest.read_manifest(folders.path(8))["files"]
    assert files.keys() == {"params/d/0", "optimizer/d/0", "meta.json"}


def test_a_save_that_fails_leaves_nothing(end_of_save, tmp_path):
    with pytest.raises(OSError, match="No space left"):
        end_of_save(error=OSError(28, "No space left on device"))
    assert not (tmp_path / "8").exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["params/d/0"], "lists no file of optimizer, which was written"),
        ([], "lists no file of params, which was written"),
    ],
)
def test_storage_that_lists_too_little_fails_the_save(names, message, end_of_save, tmp_path):
    (tmp_path / "8").mkdir()
    with pytest.raises(RuntimeError, match=message):
        end_of_save(names=names)
    assert not (tmp_path / "8").exists()


def test_a_file_that_vanishes_from_the_listing_fails_the_save(end_of_save, tmp_path, monkeypatch):
    listings = [["optimizer/d/0", "params/d/0"], ["params/d/0"]]
    monkeypatch.setattr(digest, "names", lambda folder: listings.pop(0))
    with pytest.raises(RuntimeError, match="does not list optimizer/d/0, which was written"):
        end_of_save()


def test_a_save_that_cannot_start_fails_when_it_is_waited_for(monkeypatch, tmp_path):
    def full(path, items):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(commit, "save_arrays", full)
    response = commit.start(tmp_path, {})
    with pytest.raises(OSError, match="No space left"):
        response.result()
