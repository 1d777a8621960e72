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
    digest.write_manifest(step, {"step": 7}, digest.file_digests(step))
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


def test_every_file_has_one_process_that_digests_it_its_writer(tmp_path):
    for name in ("params/d/0", "params/ocdbt.process_0/d/1", "params/ocdbt.process_1/d/2",
                 "optimizer/ocdbt.process_7/d/3", "_CHECKPOINT_METADATA"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    zero, one = (
        digest.file_digests(tmp_path, process_index=index, process_count=2) for index in (0, 1)
    )
    assert list(one) == ["params/ocdbt.process_1/d/2"]
    assert {**zero, **one} == digest.file_digests(tmp_path) and not zero.keys() & one.keys()


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_every_file_is_read_by_one_process_and_the_bytes_are_shared_out(count):
    files = {f"d/{number}": {"bytes": 1 << (number % 7)} for number in range(40)}
    shares = [digest.share(files, index, count) for index in range(count)]
    assert sorted(name for own in shares for name in own) == sorted(files)
    loads = [sum(files[name]["bytes"] for name in own) for own in shares]
    assert max(loads) - min(loads) <= 64


def test_all_damages_are_told(directory):
    assert digest.damages(directory) == []
    first, second, *_ = sorted(digest.read_manifest(directory)["files"])
    (directory / first).unlink()
    (directory / second).write_bytes(b"")
    told = digest.damages(directory)
    assert len(told) == 2 and "missing" in told[0] and "0 bytes" in told[1]
    (directory / digest.VERIFIED).rename(directory / "CORRUPT")
    assert digest.damages(directory, "CORRUPT") == told
    assert "VERIFIED is missing" in digest.damages(directory)[0]
