from pathlib import Path

from palmscale.storage.objects import ObjectPath
from palmscale.storage.place import on_disk, place


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
