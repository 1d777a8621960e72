"""A disk that is full or read-only: the run goes on from its memory, or ends with the reason."""

import shutil
import subprocess

import pytest
import tiny_run
from small_state import KEEP_ALL, params_at, restore, save

from palmscale.checkpoint.lease import Lease
from palmscale.checkpoint.store import CheckpointStore

# Spoils the disk before the save of one step, and mends it before that of another.
DISTURBED = """
import os, shutil, subprocess
from palmscale.checkpoint.store import CheckpointStore
disk = {disk!r}
filler = disk + "/filler"
def fill():
    with open(filler, "wb") as file:
        file.write(bytes(shutil.disk_usage(disk).free - (64 << 10)))
def empty():
    os.unlink(filler)
def lock():
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
def unlock():
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
real = CheckpointStore._start
def start(self, step, **arguments):
    if step == 8:
        {spoil}()
    if step == {mend_at}:
        {mend}()
    return real(self, step, **arguments)
CheckpointStore._start = start
"""
FAULTS = {"full": ("fill", "empty", "No space left"), "read-only": ("lock", "unlock", "Read-only")}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_outlives_a_disk_that_fails_for_a_while(fault, small_disk, tiny, finished, tmp_path):
    spoil, mend, words = FAULTS[fault]
    workdir = tmp_path / "run"
    disk = small_disk(workdir / "checkpoints")
    code = DISTURBED.format(disk=str(disk), spoil=spoil, mend=mend, mend_at=16)
    (answer,) = tiny_run.run_each([tiny(workdir)], code)
    assert answer.returncode == 0, answer.stderr
    warnings = [line for line in answer.stderr.splitlines() if "was not saved" in line]
    for step, warning in zip((8, 12), warnings, strict=True):
        assert f"step {step} was not saved: " in warning and words in warning
        assert "the last good checkpoint is step 4. The run continues" in warning
    assert tiny_run.steps(workdir) == [4, 16]
    tiny_run.assert_same_end(workdir, finished)


def test_a_run_ends_with_the_reason_once_too_many_saves_have_failed(
    small_disk, tiny, finished, tmp_path
):
    workdir = tmp_path / "run"
    disk = small_disk(workdir / "checkpoints")
    code = DISTURBED.format(disk=str(disk), spoil="fill", mend="empty", mend_at=-1)
    (answer,) = tiny_run.run_each([tiny(workdir, MAX_FAILED_SAVES=1)], code)
    *_, error = answer.stderr.splitlines()
    assert answer.returncode == 1 and "palmscale: error:" in error
    for part in ("step 12 was not saved: No space left", "the last good checkpoint is step 4",
                 "2 consecutive save(s) failed", "Retries.failures=1"):  # fmt: skip
        assert part in error
    assert tiny_run.steps(workdir) == [4]
    (disk / "filler").unlink()
    tiny_run.run(*tiny(workdir))
    tiny_run.assert_same_end(workdir, finished)


def test_a_disk_that_fills_up_while_it_is_written_to_keeps_the_last_good_step(
    small_disk, tmp_path, monkeypatch
):
    disk = small_disk(tmp_path / "disk")
    usage = shutil.disk_usage(disk)
    with Lease(tmp_path) as lease, CheckpointStore(disk, keep=KEEP_ALL, lease=lease) as store:
        save(store, 10)
        store.wait()
        room = shutil.disk_usage(disk).free
        (disk / "filler").write_bytes(bytes(room - 8192))
        monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
        save(store, 20)
        with pytest.raises(RuntimeError, match="step 20 was not saved: .*(No space|EXHAUSTED)"):
            store.wait()
        assert {path.name for path in disk.iterdir()} == {"10", "filler"}
        assert restore(store).step == 10
        (disk / "filler").unlink()
        save(store, 20, params=params_at(20))
        store.wait()
        assert restore(store).step == 20


def test_a_workdir_that_cannot_be_written_is_refused_at_the_start(small_disk, tiny, tmp_path):
    disk = small_disk(tmp_path / "disk")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    (answer,) = tiny_run.run_each([tiny(disk / "run")])
    assert answer.returncode == 2
    assert f"cannot write to workdir={disk}/run: Read-only" in answer.stderr.splitlines()[-1]
