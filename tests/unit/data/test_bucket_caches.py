import json
import shutil
import time

import numpy as np
import pytest

from palmscale.data import bucket_caches
from palmscale.data import open as opening
from palmscale.data.bucket_caches import BucketCaches
from palmscale.data.build.beam import BeamPipelines
from palmscale.data.cache import find_or_build
from palmscale.data.dataset import Data
from palmscale.data.row_cache import RowCache
from palmscale.data.sources.corpus import Corpus
from palmscale.data.sources.text_files import TextFiles
from palmscale.data.vocabulary import ByteVocabulary
from palmscale.errors import CorruptionError, UserError
from palmscale.storage.place import place


@pytest.fixture
def folder(bucket):
    return place(f"{bucket.url}/caches")


@pytest.fixture
def caches(folder, tmp_path, build, small_files):
    """The caches of a host that has built one, named "c"."""
    made = BucketCaches.at(folder, tmp_path / "one")
    build(made.disk / "c")
    return made


@pytest.fixture
def other_host(folder, tmp_path):
    return BucketCaches.at(folder, tmp_path / "two")


def test_another_host_reads_the_same_rows(caches, other_host):
    caches.publish("c")
    calls = []
    assert other_host.fetch("c", lambda *call: calls.append(call))
    one, two = (RowCache.open(each.disk / "c") for each in (caches, other_host))
    assert one.digest == two.digest
    rows = np.arange(one.split("train").num_rows)
    assert (
        one.split("train").read(rows)["target"] == two.split("train").read(rows)["target"]
    ).all()
    assert calls[-1][1] == calls[-1][2] > 0
    assert other_host.names("c") == ["c"] and other_host.names("d") == []


def test_a_cache_that_is_not_complete_in_the_bucket_is_not_there(caches, other_host, bucket):
    with (
        bucket.failing("uploadType=multipart", status=403),
        pytest.raises(UserError, match="objectUser"),
    ):
        caches.publish("c")
    assert not other_host.fetch("c") and other_host.names("c") == []
    assert not (other_host.disk / "c").exists()
    caches.publish("c")
    assert other_host.fetch("c")


def test_two_hosts_build_the_same_bytes_so_that_either_may_upload_them(caches, build, tmp_path):
    build(tmp_path / "again")
    files = sorted(path.name for path in (caches.disk / "c").iterdir())
    for name in files:
        assert (caches.disk / "c" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_host_does_not_upload_what_another_one_uploads(caches, folder, monkeypatch, caplog):
    claim = folder / "c" / bucket_caches._CLAIM
    claim.touch()
    caches.publish("c")
    assert caches.names("c") == []
    # Its host is gone.
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + 3600)
    caches.publish("c")
    assert caches.names("c") == ["c"] and not claim.exists()


def test_a_killed_copy_goes_on_with_the_files_that_are_missing(caches, other_host, bucket):
    caches.publish("c")
    with (
        bucket.failing("train-00002", status=403),
        pytest.raises(UserError, match="train-00002|/c:"),
    ):
        other_host.fetch("c")
    assert not (other_host.disk / "c").exists()
    kept = {path.name for path in (other_host.disk / ".c.copied").glob("*.arrayrecord")}
    assert kept and "train-00002.arrayrecord" not in kept
    assert other_host.fetch("c")
    RowCache.open(other_host.disk / "c")


def test_a_damaged_object_is_named_and_makes_no_copy(caches, other_host, bucket, folder):
    caches.publish("c")
    file = folder / "c/train-00001.arrayrecord"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(CorruptionError, match="train-00001.arrayrecord differs from its sha256"):
        other_host.fetch("c")
    assert not (other_host.disk / "c").exists()


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside"])
def test_a_manifest_cannot_name_a_file_outside_its_folder(caches, other_host, folder, name):
    caches.publish("c")
    manifest = json.loads((folder / "c/manifest.json").read_text())
    manifest["splits"]["train"]["shards"][0]["name"] = name  # not part of the digest
    (folder / "c/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CorruptionError, match="expected a relative path inside|is not"):
        other_host.fetch("c")


def test_a_missing_bucket_is_said_before_anything_is_built(bucket, tmp_path):
    nowhere = BucketCaches.at(place("gs://no-such-bucket/caches"), tmp_path)
    with pytest.raises(UserError, match="create the bucket"):
        nowhere.fetch("c")


def test_a_disk_that_cannot_be_written_is_one_line(caches, folder, tmp_path):
    caches.publish("c")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written .*mount the bucket"):
        BucketCaches.at(folder, tmp_path / "file").fetch("c")


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """This host's folder of copies, as `find_or_build` and `open_cache` use it."""
    at = BucketCaches.at
    monkeypatch.setattr(BucketCaches, "at", lambda folder, _=None: at(folder, tmp_path / "copies"))
    return tmp_path / "copies"


def test_a_cache_directory_in_a_bucket_is_filled_by_one_host_and_used_by_others(
    tmp_path, folder, copies
):
    def opened():
        return find_or_build(
            corpus=Corpus(source=TextFiles(files=str(tmp_path / "*.txt"))),
            vocabulary=ByteVocabulary(),
            sequence_length=16,
            seed=0,
            cache_directory=str(folder),
            copies=copies,
        )

    (tmp_path / "a.txt").write_text("some text, " * 20)
    built = opened()
    (name,) = [path.name for path in folder.iterdir()]
    assert built.directory == copies / folder.url.removeprefix("gs://") / name
    # A host without the text, and one with it.
    shutil.rmtree(copies)
    (tmp_path / "a.txt").rename(tmp_path / "hidden")
    assert opened().digest == built.digest
    shutil.rmtree(copies)
    (tmp_path / "hidden").rename(tmp_path / "a.txt")
    assert opened().digest == built.digest
    assert not (tmp_path / "gs:").exists()


def test_a_cache_of_a_run_may_lie_in_a_bucket(caches, folder, copies):
    caches.publish("c")
    data = Data(cache=f"{folder}/c", sequence_length=16, seed=0)
    # A plan needs no rows.
    assert opening.vocabulary_of(data).name == "bytes" and not opening.is_packed(data)
    assert not copies.exists()
    (cache,) = opening.open_caches(data).values()
    assert cache.digest == RowCache.open(caches.disk / "c").digest
    with pytest.raises(UserError, match="/d is not a cache"):
        opening.open_cache(f"{folder}/d")


def test_beam_refuses_a_folder_that_its_workers_cannot_mount():
    with pytest.raises(UserError, match="Data.cache_directory=gs://b/c cannot be used with Beam"):
        BeamPipelines([], "gs://b/c")
