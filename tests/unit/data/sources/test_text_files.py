import gzip
import os
import re

import pytest

from palmscale.data.sources.source import BadDocument, Document
from palmscale.data.sources.text_files import SourceDirectories, StandardLibrary, TextFiles
from palmscale.errors import UserError


def write(directory, **files):
    for name, content in files.items():
        path = directory / name.replace("__", "/")
        path = path.with_name(path.name.replace("_", "."))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def test_text_comes_byte_for_byte(tmp_path):
    write(tmp_path, a_txt="text a\r\n" * 10, b_txt="")
    source = TextFiles(files=(f"{tmp_path}/a.txt", f"{tmp_path}/*.txt"))
    a, b = source.shards()
    assert (a.name, a.bytes, b.name, b.bytes) == ("a.txt", 80, "b.txt", 0)
    assert not a.has_many_documents and a.stamp
    assert list(source.documents(a)) == [Document("text a\r\n" * 10)]
    assert list(source.documents(b)) == [Document("")]


def test_bytes_that_are_not_utf8_are_named_with_their_offset(tmp_path):
    write(tmp_path, a_txt=b"good \xff bad")
    source = TextFiles(files=f"{tmp_path}/a.txt")
    (bad,) = source.documents(*source.shards())
    assert isinstance(bad, BadDocument) and bad.location == f"{tmp_path}/a.txt"
    assert bad.reason.startswith("byte 5 is not UTF-8")


def test_source_directories_have_packages_as_units_and_no_tests(tmp_path):
    files = {f"lib__p{i}__m{j}_py": f"x = {i * j}\n" for i in range(3) for j in range(2)}
    write(tmp_path, **files, lib__single_py="y = 1\n", lib__p0__notes_md="no")
    write(tmp_path, lib__p0__tests__t_py="no", lib___hidden__h_py="no")
    (tmp_path / "lib/.git").mkdir()
    (tmp_path / "lib/.git/x.py").write_text("no")
    shards = SourceDirectories(directories=str(tmp_path / "lib")).shards()
    units = {shard.holdout_unit for shard in shards if not shard.holdout_unit.startswith("_")}
    assert units == {"p0", "p1", "p2", "single.py"}
    assert [s.name for s in shards if s.holdout_unit == "p1"] == ["p1/m0.py", "p1/m1.py"]
    assert not any(re.search(r"tests|\.git|\.md", shard.name) for shard in shards)


def test_equal_names_in_two_directories_stay_apart(tmp_path):
    write(tmp_path, a__src__m_py="a = 1\n", b__src__m_py="b = 1\n")
    source = SourceDirectories(directories=(f"{tmp_path}/a/src", f"{tmp_path}/b/src"))
    assert [shard.name for shard in source.shards()] == ["a/src/m.py", "b/src/m.py"]
    other = SourceDirectories(directories=str(tmp_path), suffixes=(".c",))
    with pytest.raises(UserError, match=r"in which no file ends in \.c"):
        other.shards()


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(UserError, match="SourceDirectories.directories contains '.*/none'"):
        SourceDirectories(directories=str(tmp_path / "none")).shards()


def test_the_standard_library_is_there_without_its_tests(monkeypatch):
    source = StandardLibrary()
    shards = {shard.name: shard for shard in source.shards()}
    assert {"argparse.py", "json/decoder.py"} <= set(shards)
    assert not any(re.search(r"(^|/)(tests?|site-packages|__pycache__)/", name) for name in shards)
    assert {shard.holdout_unit for name, shard in shards.items() if name.startswith("json/")} == {
        "json"
    }
    (document,) = source.documents(shards["argparse.py"])
    assert "ArgumentParser" in document.text


def test_a_module_of_the_standard_library_that_is_not_utf8_is_no_document(tmp_path):
    write(tmp_path, a_py=b"# coding: latin-1 \xe9")
    (shard,) = SourceDirectories(directories=str(tmp_path)).shards()
    assert list(StandardLibrary().documents(shard)) == [Document("")]


def test_compressed_text_is_read_and_what_is_cut_off_is_named(tmp_path):
    write(tmp_path, a_txt=gzip.compress("naïve".encode()), b_txt_gz="")
    source = TextFiles(files=f"{tmp_path}/*")
    (text,), (bad,) = (source.documents(shard) for shard in source.shards())
    assert text == Document("naïve")
    assert bad.location == f"{tmp_path}/b.txt.gz" and "truncated: the file is empty" in bad.reason


def test_linked_folders_of_source_code_are_read_and_hidden_files_are_not(tmp_path):
    write(tmp_path, real__b_py="b = 1\n", src__p__a_py="a = 1\n", src__p___hidden_py="no")
    (tmp_path / "src/q").symlink_to("../real")
    (tmp_path / "src/p/up").symlink_to("..")
    shards = SourceDirectories(directories=str(tmp_path / "src")).shards()
    assert [(s.name, s.holdout_unit) for s in shards] == [("p/a.py", "p"), ("q/b.py", "q")]


def test_a_pipe_among_source_code_and_a_directory_given_twice(tmp_path):
    write(tmp_path, src__a_py="a = 1\n")
    (tmp_path / "link").symlink_to("src")
    twice = SourceDirectories(directories=(f"{tmp_path}/src", f"{tmp_path}/link"))
    assert [shard.name for shard in twice.shards()] == ["src/a.py"]
    os.mkfifo(tmp_path / "src/b.py")
    with pytest.raises(UserError, match="src/b.py, which is not a regular file but a pipe"):
        twice.shards()
    with pytest.raises(UserError, match="SourceDirectories.directories is empty"):
        SourceDirectories(directories=()).shards()
