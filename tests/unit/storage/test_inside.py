"""A file that stored data names lies inside its folder, and is a file."""

import os

import pytest

from palmscale.errors import CorruptionError
from palmscale.storage.inside import check_links, inside, read_limited
from palmscale.storage.place import place


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "folder"
    (made / "in").mkdir(parents=True)
    (made / "in/a").write_text("a")
    (tmp_path / "secret").write_text("secret")
    return made


def test_a_file_inside_is_found_whether_it_exists_or_not(folder):
    assert inside(folder, "in/a") == folder / "in/a"
    assert inside(folder, "in/b") == folder / "in/b"
    (folder / "link").symlink_to("in/a")
    assert inside(folder, "link").read_text() == "a"
    assert str(inside(place("gs://bucket/run"), "a/b")) == "gs://bucket/run/a/b"


@pytest.mark.parametrize(
    "name",
    ["../secret", "in/../../secret", "/etc/passwd", "", ".", "a\0b", "x" * 300, "x/" * 600],
    ids=lambda name: name[:20],
)
def test_a_name_that_leads_out_is_refused_on_a_disk_and_in_a_bucket(folder, name):
    for where in (folder, place("gs://bucket/run")):
        with pytest.raises(CorruptionError, match="names the file .* expected a relative path"):
            inside(where, name)


def test_a_link_that_leads_out_is_refused(folder):
    (folder / "link").symlink_to("../secret")
    (folder / "parent").symlink_to("..")
    (folder / "round").symlink_to("round")
    for name in ("link", "parent/secret"):
        with pytest.raises(CorruptionError, match="is a link that leads out"):
            inside(folder, name)
    with pytest.raises(CorruptionError, match="is a link that leads out"):
        check_links(folder)
    with pytest.raises(CorruptionError, match="is a link that leads out"):
        read_limited(folder / "link", 99)
    assert not inside(folder, "round").exists()


@pytest.mark.parametrize("name", ["link", "in/link"])
def test_every_link_in_a_folder_is_looked_at(folder, name):
    check_links(folder)
    (folder / name).symlink_to(folder / "in/a")
    check_links(folder)
    (folder / name).unlink()
    (folder / name).symlink_to(folder.parent)
    with pytest.raises(CorruptionError, match="is a link that leads out"):
        check_links(folder)


def test_a_folder_may_itself_be_reached_by_a_link(folder, tmp_path):
    (tmp_path / "other").symlink_to(folder)
    assert inside(tmp_path / "other", "in/a").read_text() == "a"
    check_links(tmp_path / "other")


def test_a_pipe_and_a_folder_are_no_files(folder):
    os.mkfifo(folder / "pipe")
    for name in ("pipe", "in"):
        with pytest.raises(CorruptionError, match="is not a regular file"):
            inside(folder, name)
    with pytest.raises(CorruptionError, match="pipe is not a regular file"):
        check_links(folder)


def test_a_file_is_read_only_up_to_a_size(folder):
    assert read_limited(folder / "in/a", 1) == b"a"
    with pytest.raises(CorruptionError, match="in/a has 1 bytes; at most 0 are expected"):
        read_limited(folder / "in/a", 0)
    with pytest.raises(FileNotFoundError):
        read_limited(folder / "in/b", 1)
