"""Leases on a file system, with locks and without: running, stopped and killed holders."""

import errno
import fcntl
import json
import os
import signal
import socket
import sys
import threading
import time

import forked
import pytest

from palmscale.checkpoint import file_lease
from palmscale.checkpoint.lease import Lease
from palmscale.errors import HostLost, UserError

RUNNING_SECONDS = 20.0  # a busy machine may renew a lease late
STALE_SECONDS = 0.4
HOLDER = """
import errno, fcntl, sys
if sys.argv[2] == "no locks":
    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")
    fcntl.flock = flock
from palmscale.checkpoint.lease import Lease
lease = Lease(sys.argv[1], stale_seconds=1.0)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=["locks", "no locks"])
def kind(request, monkeypatch):
    if request.param == "no locks":
        remove_locks(monkeypatch, errno.ENOSYS)
    return request.param


def remove_locks(monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.fixture
def holder(kind, tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path), kind]
    with forked.Popen(command, stdin=-1, stdout=-1, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def take(workdir, stale_seconds=STALE_SECONDS):
    return Lease(workdir, stale_seconds=stale_seconds)


def test_a_running_job_is_not_disturbed_and_is_named(holder, tmp_path):
    for _ in range(2):
        with pytest.raises(UserError, match=f"in use by another job .pid {holder.pid} on .*; stop"):
            take(tmp_path, RUNNING_SECONDS)


def test_a_killed_job_leaves_its_workdir_to_the_next(holder, tmp_path):
    holder.kill()
    holder.wait()
    with take(tmp_path) as lease:
        lease.check()
        assert f"pid {os.getpid()} on" in (tmp_path / "LEASE").read_text()


@pytest.mark.parametrize("kind", ["locks"], indirect=True)
def test_a_stopped_job_that_keeps_its_lock_is_named_and_a_restart_may_help(holder, tmp_path):
    holder.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(
        HostLost, match=rf"pid {holder.pid} on .* has not renewed .* for 0.4 s: it is"
    ):
        take(tmp_path)
    assert time.monotonic() - began >= STALE_SECONDS


@pytest.mark.parametrize("kind", ["locks"], indirect=True)
def test_a_job_on_a_host_that_does_not_see_the_lock_is_not_disturbed(
    holder, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    monkeypatch.setattr(file_lease, "_RENEWALS", 60)
    with pytest.raises(UserError, match=f"in use by another job .pid {holder.pid} on"):
        take(tmp_path)
    holder.kill()
    holder.wait()
    monkeypatch.setattr(file_lease, "_RENEWALS", 0.3)
    caplog.clear()
    with caplog.at_level("INFO"):
        take(tmp_path).close()
        take(tmp_path).close()
    assert caplog.text.count("Waiting up to") == 1  # not for a job that has ended


def test_a_job_that_ends_while_another_watches_makes_room_for_it(holder, kind, tmp_path):
    holder.send_signal(signal.SIGSTOP)
    threading.Timer(0.2, holder.kill).start()
    take(tmp_path, RUNNING_SECONDS if kind == "locks" else STALE_SECONDS).close()


@pytest.mark.parametrize("kind", ["no locks"], indirect=True)
def test_a_stopped_job_without_a_lock_loses_its_lease_and_learns_of_it(kind, tmp_path, caplog):
    with take(tmp_path) as first:
        first._held._renewal.end()  # as if it were stopped
        with take(tmp_path) as second:
            second.check()
            assert "taking over the workdir: the job that holds" in caplog.text
            with pytest.raises(UserError, match="in use by another job"):
                first.check()
    assert not list(tmp_path.glob("LEASE.*"))


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_named_and_used(number, tmp_path, monkeypatch, caplog):
    remove_locks(monkeypatch, number)
    with caplog.at_level("INFO"), take(tmp_path / "run") as lease:
        lease.check()
        assert (tmp_path / "run/LEASE").read_text().startswith("pid ")
    assert f"has no locks ({os.strerror(number)})" in caplog.text
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["LEASE"]


@pytest.mark.parametrize("kind", ["no locks"], indirect=True)
def test_of_many_that_come_at_once_one_gets_the_lease(kind, tmp_path):
    (tmp_path / "LEASE.7").write_text("pid 7 on elsewhere\n")
    got, refused = [], []

    def come():
        try:
            got.append(take(tmp_path))
        except UserError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=come) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1 and len(refused) == 3, json.dumps(refused)
    got[0].close()


@pytest.mark.parametrize("kind", ["no locks"], indirect=True)
def test_a_lease_file_that_somebody_removed_is_made_again(kind, tmp_path):
    with take(tmp_path) as lease:
        (tmp_path / "LEASE.1").unlink()
        end = time.monotonic() + 20
        while not (tmp_path / "LEASE.1").exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        lease.check()
