import hashlib
import io
import json
import os
import subprocess
import sys
import threading

import pytest

from palmscale.data.sources import paths
from palmscale.errors import UserError

# The client library keeps threads and a loop: one process for it and the store.
GCS = r"""
import json, os, pathlib, sys
from gcp_storage_emulator.server import create_server
import gcsfs
from palmscale.data.sources import paths
from palmscale.errors import UserError

def check(out):
    put = gcsfs.GCSFileSystem(skip_instance_cache=True).pipe
    put("bucket/a/1.txt", b"one"), put("bucket/b/2.txt", b"two"), put("bucket/b/3.md", b"no")
    found = paths.find(["gs://bucket/*/*.txt"], "FILES")
    out["found"] = [(file.name, file.path, file.bytes) for file in found]
    with paths.open_binary(found[0].path) as stream:
        out["read"] = [stream.read(2).decode(), stream.read().decode()]
    before = [paths.digest(file.path) for file in found]
    put("bucket/a/1.txt", b"ONE"), put("bucket/b/2.txt", b"two")
    now = [paths.digest(file.path) for file in found]
    out["same"] = [a == b for a, b in zip(before, now)]
    out["same stamp"] = [paths.stamp(file.path) == file.stamp for file in found]
    local = pathlib.Path(sys.argv[1]) / "x.txt"
    local.write_text("x")
    both = paths.find(["gs://bucket/a/*", str(local)], "FILES")
    out["both"] = [file.name for file in both]
    try:
        paths.open_binary("gs://bucket/none")
    except UserError as error:
        out["none"] = str(error)
    print(json.dumps(out))

with create_server("localhost", 0, in_memory=True, default_bucket="bucket") as store:
    port = store._api._httpd.server_address[1]
    os.environ["STORAGE_EMULATOR_HOST"] = f"http://localhost:{port}"
    check({})
"""


def test_an_object_store_is_read_by_the_same_calls_and_known_by_its_checksums(tmp_path):
    command = [sys.executable, "-c", GCS, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    out = json.loads(run.stdout.splitlines()[-1])
    files = [["a/1.txt", "gs://bucket/a/1.txt", 3], ["b/2.txt", "gs://bucket/b/2.txt", 3]]
    assert out["found"] == files and out["read"] == ["on", "e"]
    assert out["same"] == out["same stamp"] == [False, True]  # written again is not changed
    assert out["both"] == ["bucket/a/1.txt", f"{tmp_path}/x.txt".lstrip("/")]
    assert out["none"].startswith("gs://bucket/none cannot be read (FileNotFoundError")


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


def test_a_link_changes_with_its_file_and_one_to_none_is_named(tmp_path):
    (tmp_path / "x").write_text("text")
    (tmp_path / "link.txt").symlink_to("x")
    os.utime(tmp_path / "x", (5, 5))
    (before,) = paths.find([f"{tmp_path}/*.txt"], "FILES")
    assert before.stamp == paths.stamp(before.path)
    os.utime(tmp_path / "x", (6, 6))
    (now,) = paths.find([f"{tmp_path}/*.txt"], "FILES")
    assert now.stamp == paths.stamp(before.path) != before.stamp
    (tmp_path / "x").unlink()
    for call in (lambda: paths.find([f"{tmp_path}/*"], "FILES"), lambda: paths.size(now.path)):
        with pytest.raises(UserError, match=f"{tmp_path}/link.txt cannot be read .No such file"):
            call()


def test_a_disk_that_fails_is_neither_the_users_mistake_nor_an_error_of_writing(tmp_path):
    class Failing(io.BytesIO):
        def read(self, size=-1):
            raise OSError(5, "Input/output error")

    stream = paths._Reading(Failing(), "a.txt")
    with pytest.raises(RuntimeError, match="reading .*a.txt failed .Input/output"):
        stream.read()


def test_a_pattern_without_files_names_itself_and_where_it_looked(tmp_path):
    with pytest.raises(UserError, match=f"FILES='.*/my/\\*.txt' matches no file in {tmp_path}/my;"):
        paths.find([f"{tmp_path}/my/*.txt"], "FILES")


def test_a_stamp_changes_with_the_time_and_a_digest_with_the_content(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_text("one")
    os.utime(path, (5, 5))
    stamp, digest = paths.stamp(str(path)), paths.digest(str(path))
    assert digest == hashlib.sha256(b"one").hexdigest() == paths.digest(f"file://{path}")
    os.utime(path, (6, 6))
    assert paths.stamp(str(path)) != stamp and paths.digest(str(path)) == digest
    parts = []
    monkeypatch.setattr(paths, "_DIGESTED_BYTES", 2)
    assert paths.digest(str(path), lambda: parts.append(1)) == digest and len(parts) == 2
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


def test_a_store_that_does_not_answer_is_given_up_in_one_line(monkeypatch):
    import fsspec

    class Silent(fsspec.AbstractFileSystem):
        protocol = "silent"

        def exists(self, path, **options):
            threading.Event().wait(5)

    fsspec.register_implementation("silent", Silent, clobber=True)
    monkeypatch.setattr(paths, "_ANSWER_SECONDS", 0.1)
    with pytest.raises(UserError, match="silent://bucket does not answer within 0.1 seconds; "):
        paths.find(["silent://bucket/a/*.txt"], "FILES")


def test_a_file_by_two_spellings_is_found_once(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.txt").write_text("text")
    (tmp_path / "link").symlink_to("a")
    monkeypatch.chdir(tmp_path)
    spellings = ["a/*.txt", "a/../a/x.txt", f"{tmp_path}/a/x.txt", "./a//x.txt"]
    (found,) = paths.find(spellings, "FILES")
    assert found.path == f"{tmp_path}/a/x.txt"
    (found,) = paths.find(["a/*.txt", "link/*.txt"], "FILES")
    assert found.path == f"{tmp_path}/a/x.txt"


def test_names_may_look_like_patterns_or_chained_urls(tmp_path):
    for name in ("notes[1].txt", "a::b.txt"):
        (tmp_path / name).write_text(name)
        (found,) = paths.find(f"{tmp_path}/{name}", "FILES")
        assert found.name == name and paths.stamp(found.path) == found.stamp
        with paths.open_binary(found.path) as stream:
            assert stream.read().decode() == name


def test_a_folder_in_place_of_files_is_told_the_pattern(tmp_path):
    (tmp_path / "a.md").write_text("text")
    with pytest.raises(UserError, match=r"FILES='.*' is a folder; .*for example '.*/\*\*/\*\.md'"):
        paths.find(str(tmp_path), "FILES")


def test_what_is_not_a_regular_file_is_refused_at_once(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    os.mkfifo(tmp_path / "b.txt")
    with pytest.raises(UserError, match=f"FILES matches {tmp_path}/b.txt, .* not a regular file"):
        paths.find(f"{tmp_path}/*.txt", "FILES")


def test_a_name_that_is_not_utf8_is_refused_in_a_line_that_can_be_printed(tmp_path):
    with open(os.fsencode(tmp_path) + b"/caf\xe9.txt", "w") as file:
        file.write("text")
    with pytest.raises(UserError, match=r"caf\\xe9.txt, whose name is not UTF-8") as caught:
        paths.find(f"{tmp_path}/*.txt", "FILES")
    str(caught.value).encode("utf-8")


def test_no_pattern_at_all_is_refused():
    with pytest.raises(UserError, match=r"FILES=\(\) names no files"):
        paths.find((), "FILES")


def test_hidden_files_of_a_store_are_left_out():
    import fsspec

    fsspec.filesystem("memory").pipe({"/hidden/._1.txt": b"no", "/hidden/1.txt": b"one"})
    fsspec.filesystem("memory").pipe({"/hidden/[1].txt": b"one"})
    assert [f.name for f in paths.find("memory://hidden/*", "FILES")] == ["1.txt", "[1].txt"]
    assert [f.name for f in paths.find("memory://hidden/.*", "FILES")] == ["._1.txt"]
    assert [f.name for f in paths.find("memory://hidden/[1].txt", "FILES")] == ["[1].txt"]


def test_what_reads_a_scheme_is_named_as_pip_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UserError, match=r"s3://bucket/x cannot be read .*`pip install 's3fs'`"):
        paths.open_binary("s3://bucket/x")
    with pytest.raises(UserError, match="foo://x cannot be read .*; use another address"):
        paths.open_binary("foo://x")
