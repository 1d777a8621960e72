from pathlib import Path

import pytest

from palmscale.errors import UserError
from palmscale.storage.objects import ObjectPath
from palmscale.storage.place import local_path, on_disk, place


def test_a_url_is_a_place_in_a_bucket_and_anything_else_a_folder():
    assert place("gs://bucket/run/") == ObjectPath("gs://bucket/run")
    assert place(place("gs://bucket/run")) == ObjectPath("gs://bucket/run")
    assert place("runs/a") == Path("runs/a") == place(Path("runs/a"))


def test_what_is_on_the_disk_is_itself_and_what_is_not_a_copy_for_a_while(bucket, tmp_path):
    with on_disk(tmp_path / "a") as path:
        assert path == tmp_path / "a"
    root = place(bucket.url)
    (root / "folder/deep/x").write_text("x")
    (root / "file").write_text("y")
    with on_disk(root / "folder") as folder:
        assert (folder / "deep/x").read_text() == "x"
    with on_disk(root / "file") as file, on_disk(root / "nothing") as nothing:
        assert file.read_text() == "y" and not nothing.exists()
    assert not folder.exists() and not file.exists()


def test_the_home_folder_stands_for_a_leading_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert place("~/runs/a") == local_path("~/runs/a") == Path("/home/me/runs/a")
    assert place("runs/~/a") == Path("runs/~/a")


def test_where_the_home_folder_is_unknown_the_path_is_refused(monkeypatch):
    with pytest.raises(UserError, match="~nobody-here/a: the home folder is unknown; set HOME"):
        place("~nobody-here/a")
