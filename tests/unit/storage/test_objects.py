"""Objects by the verbs of pathlib, against the emulator."""

import hashlib
import sys

import pytest

from palmscale.errors import UserError
from palmscale.storage import objects
from palmscale.storage.objects import ObjectPath


@pytest.fixture
def folder(bucket):
    return ObjectPath(f"{bucket.url}/runs/a")


def test_a_path_has_the_parts_of_its_url():
    path = ObjectPath("gs://bucket/a/b")
    assert (path / "c.txt").url == "gs://bucket/a/b/c.txt" == str(path / "c.txt")
    assert (path.name, path.parent.url, path.bucket.url) == ("b", "gs://bucket/a", "gs://bucket")
    assert path.bucket.parent == path.bucket and path.absolute() == path
    assert path.with_name("x").url == "gs://bucket/a/x"
    assert (path / "c/d").relative_to(path).as_posix() == "c/d"


def test_what_was_written_is_read_back_and_listed(folder):
    (folder / "1/x").write_text("x\n")
    (folder / "1/deep/y").write_bytes(bytes(range(256)) * 100)
    (folder / "2").touch()
    (folder / "1/x").touch()  # is there: stays
    assert (folder / "1/x").read_text() == "x\n" and (folder / "2").read_bytes() == b""
    assert [path.name for path in folder.iterdir()] == ["1", "2"]
    found = {p.relative_to(folder).as_posix(): p.is_file() for p in folder.rglob("*")}
    assert found == {"1/x": True, "1/deep/y": True, "2": True}
    assert (folder / "1/deep/y").stat().st_size == 25_600
    for name, content in ("1/deep/y", bytes(range(256)) * 100), ("2", b""):
        with (folder / name).open("rb", buffering=0) as file:
            found = hashlib.file_digest(file, "sha256").digest()
        assert found == hashlib.sha256(content).digest()


def test_a_folder_is_there_as_long_as_something_is_in_it(folder):
    folder.mkdir(parents=True, exist_ok=True)
    assert not folder.is_dir() and not folder.exists() and list(folder.iterdir()) == []
    (folder / "x").touch()
    assert folder.is_dir() and folder.exists() and not folder.is_file()
    assert not (folder.parent / "a-longer-name-begins-so").exists()
    folder.remove_tree()
    folder.remove_tree()
    assert not folder.exists()


def test_a_listing_of_many_pages_is_whole(folder, monkeypatch):
    for number in range(5):
        (folder / str(number)).touch()
    store = objects._store()
    whole = store.call("GET", "b/{}/o", folder.bucket.name, prefix="runs/a/", json_out=True)

    def paged(*arguments, pageToken=None, **options):
        at = int(pageToken or 0)
        more = {"nextPageToken": str(at + 2)} if at < 4 else {}
        return {"items": whole["items"][at : at + 2]} | more

    monkeypatch.setattr(store, "call", paged)
    assert [path.name for path in folder.iterdir()] == list("01234")


def test_only_one_of_two_writers_writes_over_a_generation(folder):
    path = folder / "LEASE"
    first = path.write_over(0, b"one")
    with pytest.raises(FileExistsError):
        path.write_over(0, b"two")
    second = path.write_over(first, b"three")
    assert second != first and path.stat().generation == second and path.read_bytes() == b"three"
    with pytest.raises(FileExistsError):
        path.unlink(generation=first)
    path.unlink(generation=second)
    path.unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        path.unlink()


def test_times_are_the_stores(folder):
    (folder / "a").touch()
    (folder / "b").touch()
    assert 0 <= (folder / "b").stat().st_mtime - (folder / "a").stat().st_mtime < 60


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (403, PermissionError, "Permission denied"),
        (401, PermissionError, "Permission denied"),
        (400, OSError, "the object store answers as the test asks, 400"),
    ],
)
def test_an_error_of_the_store_says_what_it_is_and_of_which_object(
    bucket, folder, status, kind, words
):
    (folder / "x").touch()
    with bucket.failing(status=status):
        for call in (
            (folder / "x").read_bytes,
            (folder / "x").exists,
            (folder / "x").unlink,
            (folder / "x").touch,
            folder.is_dir,
            lambda: (folder / "x").write_bytes(b""),
            lambda: list(folder.rglob("*")),
        ):
            with pytest.raises(kind, match=words) as raised:
                call()
            assert raised.value.filename.startswith(folder.url)
    assert (folder / "x").exists()


@pytest.mark.parametrize("status", [503, 0])
def test_a_short_outage_is_waited_for(bucket, folder, status, monkeypatch):
    import asyncio

    (folder / "x").write_text("x")
    outage = bucket.failing("runs", status=status)
    outage.__enter__()

    async def ended(seconds):
        outage.__exit__(None, None, None)

    monkeypatch.setattr(asyncio, "sleep", ended)
    assert (folder / "x").read_text() == "x"


def test_nothing_in_a_bucket_that_is_not_there(folder):
    nowhere = ObjectPath("gs://no-such-bucket/run")
    assert not nowhere.exists() and not nowhere.is_dir()
    for call in (
        nowhere.read_bytes,
        lambda: nowhere.write_bytes(b""),
        lambda: list(nowhere.iterdir()),
    ):
        with pytest.raises(FileNotFoundError, match="no-such-bucket"):
            call()


def test_without_the_client_a_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    objects._store.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'palmscale\[gcs\]'"):
        ObjectPath("gs://bucket/x").read_bytes()
