import hashlib
import os
import sys

import pytest

from palmscale.data import paths
from palmscale.errors import UserError


def test_files_are_named_below_the_folder_they_share_and_sorted(tmp_path):
    for name in ("b/x.txt", "a/y.txt", "a/no.md", "a/deep/z.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "a/dir.txt").mkdir()
    found = paths.find([f"{tmp_path}/**/*.txt", f"{tmp_path}/a/*.txt"], "FILES")
    assert [file.name for file in found] == ["a/deep/z.txt", "a/y.txt", "b/x.txt"]
    assert [file.path for file in found] == [f"{tmp_path}/{file.name}" for file in found]
    assert [file.bytes for file in found] == [len(file.name) for file in found]
    alone = paths.find([f"{tmp_path}/b/x.txt"], "FILES")
    assert [file.name for file in alone] == ["x.txt"]


def test_a_relative_path_and_a_link_are_files_too(tmp_path, monkeypatch):
    (tmp_path / "x.txt").write_text("text")
    (tmp_path / "link.txt").symlink_to("x.txt")
    monkeypatch.chdir(tmp_path)
    assert [file.name for file in paths.find(["*.txt"], "FILES")] == ["link.txt", "x.txt"]
    with paths.open_binary("x.txt") as stream:
        assert stream.read() == b"text"


def test_a_pattern_without_files_names_itself_and_where_it_looked(tmp_path):
    with pytest.raises(UserError, match=f"FILES='.*/my/\\*.txt' matches no file in {tmp_path}/my "):
        paths.find([f"{tmp_path}/my/*.txt"], "FILES")


def test_a_stamp_changes_with_the_time_and_a_digest_with_the_content(tmp_path):
    path = tmp_path / "x"
    path.write_text("one")
    os.utime(path, (5, 5))
    stamp, digest = paths.stamp(str(path)), paths.digest(str(path))
    assert digest == hashlib.sha256(b"one").hexdigest()
    os.utime(path, (6, 6))
    assert paths.stamp(str(path)) != stamp and paths.digest(str(path)) == digest
    path.write_text("two")
    assert paths.digest(str(path)) != digest


def test_urls_go_the_same_way_as_paths():
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe({"/bucket/a/1.txt": b"one", "/bucket/b/2.txt": b"two"})
    found = paths.find(["memory://bucket/*/*.txt"], "FILES")
    assert [(file.name, file.bytes) for file in found] == [("a/1.txt", 3), ("b/2.txt", 3)]
    with paths.open_binary(found[0].path) as stream:
        assert stream.read() == b"one"


def test_what_cannot_be_read_or_reached_is_named(tmp_path, monkeypatch):
    for call in (paths.open_binary, paths.stamp, paths.digest):
        with pytest.raises(UserError, match=f"{tmp_path}/none cannot be read"):
            call(f"{tmp_path}/none")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match=r"gs://bucket/x.*palmscale\[gcs\]"):
        paths.open_binary("gs://bucket/x")
