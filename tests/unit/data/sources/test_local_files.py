import os

import pytest

from palmscale.data.sources import local_files
from palmscale.errors import UserError


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Makes files in the current folder."""
    monkeypatch.chdir(tmp_path)

    def put(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(name)
        return tmp_path

    return put


def found(pattern):
    return [os.path.relpath(path) for path in local_files.glob(pattern)]


def test_patterns_match_parts_of_paths(put):
    put("a.txt", "b/a.txt", "b/c/a.txt", "b/c/a.md", "b/c/ab.txt")
    assert found("*.txt") == ["a.txt"]
    assert found("**/*.txt") == ["a.txt", "b/a.txt", "b/c/a.txt", "b/c/ab.txt"]
    assert found("b/**") == found("b/**/*") == ["b/a.txt", "b/c/a.md", "b/c/a.txt", "b/c/ab.txt"]
    assert found("**/c/**/a.*") == ["b/c/a.md", "b/c/a.txt"]
    assert found("*/[a]?txt") == ["b/a.txt"] and found("*/[!a]*") == []
    assert found("none/*") == found("a.txt/*") == found("*/none.txt") == []


def test_linked_folders_are_read_and_each_file_once(put):
    folder = put("real/x/a.txt", "set/own.txt")
    (folder / "set/link").symlink_to("../real")
    (folder / "set/again").symlink_to("../real/x")
    assert found("set/**/*.txt") == ["set/again/a.txt", "set/own.txt"]
    assert found("set/link/*/*.txt") == found("set/link/**/*.txt") == ["set/link/x/a.txt"]
    assert found("set/*/a.txt") == ["set/again/a.txt"]
    assert found("**/a.txt") == ["real/x/a.txt"]


def test_links_in_a_circle_end(put):
    folder = put("a/x.txt", "b/y.txt")
    (folder / "a/b").symlink_to("../b")
    (folder / "b/a").symlink_to("../a")
    (folder / "b/here").symlink_to(".")
    assert found("**/*.txt") == ["a/x.txt", "b/y.txt"]
    walked = [(os.path.relpath(path), names) for path, names in local_files.walk(str(folder))]
    assert walked == [(".", []), ("a", ["x.txt"]), ("b", ["y.txt"])]


def test_hidden_files_and_folders_are_left_out_unless_they_are_named(put):
    put("._a.txt", "a.txt", ".ipynb_checkpoints/a-checkpoint.txt", "b/.git/x.txt")
    assert found("*.txt") == found("**/*.txt") == ["a.txt"]
    assert found("*/*.txt") == []
    assert found(".*") == ["._a.txt"] and found("._a.txt") == ["._a.txt"]
    assert found("b/.git/*") == ["b/.git/x.txt"]


def test_what_exists_stands_for_itself(put):
    put("notes[1].txt", "notes1.txt", "data[v2]/a.txt", "datav/a.txt", "a::b.txt", "s*r.txt")
    assert found("notes[1].txt") == ["notes[1].txt"]
    assert found("data[v2]/*.txt") == ["data[v2]/a.txt"]
    assert found("data[vw]/*.txt") == ["datav/a.txt"]
    assert found("a::b.txt") == ["a::b.txt"] and found("s*r.txt") == ["s*r.txt"]


def test_one_file_by_two_spellings_is_one(put):
    folder = put("a/x.txt", "b/y.txt")
    (folder / "link").symlink_to("b")
    assert found("a/../a/x.txt") == ["a/x.txt"]
    assert found("./a//x.txt") == ["a/x.txt"]
    assert found("link/../a/x.txt") == ["a/x.txt"]
    assert found("?/../b/*.txt") == ["b/y.txt"]


def test_a_folder_that_cannot_be_read_is_named(put, monkeypatch):
    folder, scandir = put("a/x.txt", "b/y.txt"), os.scandir

    def refuse(path):
        if os.path.basename(path) == "b":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for pattern in ("**/*.txt", "*/*.txt"):
        with pytest.raises(UserError, match=f"{folder}/b cannot be read .Permission denied"):
            local_files.glob(pattern)


def test_the_advice_for_a_folder_names_its_usual_suffix(put):
    put("a/x.jsonl", "a/b/y.jsonl", "a/readme.md")
    assert local_files.advice_for_folder("a/") == "a/**/*.jsonl"
    os.mkdir("empty")
    assert local_files.advice_for_folder("empty") == "empty/**/*.txt"
