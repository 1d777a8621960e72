import errno

import pytest

from palmscale.checkpoint import digest
from palmscale.errors import CorruptionError


@pytest.fixture
def directory(tmp_path):
    step = tmp_path / "step"
    (step / "inner").mkdir(parents=True)
    (step / "inner/data").write_bytes(bytes(range(256)) * 100)
    (step / "empty").touch()
    digest.write_manifest(step, {"step": 7})
    return step


def test_undamaged_directory_passes_and_returns_the_manifest(directory):
    manifest = digest.check(directory)
    assert manifest["step"] == 7
    assert {name: file["bytes"] for name, file in manifest["files"].items()} == {
        "empty": 0,
        "inner/data": 25600,
    }
    assert digest.read_checked(directory, "empty") == b""


@pytest.mark.parametrize("bit", [0, 77_777, 25600 * 8 - 1])
def test_one_flipped_bit_is_seen(directory, bit):
    path = directory / "inner/data"
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    with pytest.raises(CorruptionError, match="inner/data is damaged"):
        digest.check(directory)
    with pytest.raises(CorruptionError, match="inner/data is damaged"):
        digest.read_checked(directory, "inner/data")


def test_a_missing_a_shorter_and_a_longer_file_are_named(directory):
    (directory / "empty").write_bytes(b"x")
    with pytest.raises(CorruptionError, match="empty has 1 bytes; 0 were saved"):
        digest.check(directory)
    (directory / "empty").unlink()
    with pytest.raises(CorruptionError, match="empty is missing"):
        digest.check(directory)


@pytest.mark.parametrize("name", [digest.MANIFEST, digest.VERIFIED])
def test_the_manifest_and_its_marker_guard_each_other(directory, name):
    path = directory / name
    content = bytearray(path.read_bytes())
    content[20] ^= 4
    path.write_bytes(content)
    with pytest.raises(CorruptionError, match=name):
        digest.check(directory)


def test_a_bad_sector_is_damage_and_a_lost_permission_is_not(directory, monkeypatch):
    for number, raised in (errno.EIO, CorruptionError), (errno.EACCES, PermissionError):

        def broken(path, number=number):
            raise OSError(number, "broken")

        monkeypatch.setattr(digest, "_sha256", broken)
        with pytest.raises(raised):
            digest.check(directory)


def test_a_crash_while_writing_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "file"
    digest.write_durably(path, b"old")

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(digest.os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        digest.write_durably(path, b"new")
    assert path.read_bytes() == b"old"
