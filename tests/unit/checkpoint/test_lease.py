import builtins
import concurrent.futures
import os
import signal
import subprocess
import sys

import board
import pytest

from palmscale.checkpoint import lease
from palmscale.checkpoint.lease import Lease, check_shared
from palmscale.errors import UserError

HOLDER = """
import sys
from palmscale.checkpoint.lease import Lease
lease = Lease(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_job_is_refused_naming_the_holder_until_it_is_killed(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=f"pid {holder.pid} on .* since 20"):
            Lease(tmp_path)
        holder.send_signal(signal.SIGKILL)
    with Lease(tmp_path):
        assert f"pid {os.getpid()} " in (tmp_path / "LEASE").read_text()


def test_a_closed_lease_can_be_taken_again(tmp_path):
    for _ in range(2):
        with Lease(tmp_path / "made", stale_seconds=1), pytest.raises(UserError, match="in use"):
            Lease(tmp_path / "made", stale_seconds=20)


def test_other_processes_of_the_job_do_not_lock(tmp_path):
    with Lease(tmp_path), Lease(tmp_path, process_index=1):
        pass


def test_all_processes_must_see_one_workdir(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "_SHARED_SECONDS", 0.5)
    mine, theirs = tmp_path / "shared", tmp_path / "not shared"

    def see(one, workdir):
        try:
            return check_shared(workdir, one)
        except UserError as error:
            return str(error)

    with Lease(mine), concurrent.futures.ThreadPoolExecutor(3) as pool:
        workdirs = mine, mine, theirs
        said = list(pool.map(see, board.peers(3), workdirs))
    assert said[:2] == [None, None]
    assert f"process 2 on c does not see in the workdir {theirs} what process 0 on a" in said[2]


def test_an_unwritable_workdir_is_the_users_mistake(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for workdir in tmp_path / "file", tmp_path / "file/below":
        with pytest.raises(UserError, match="cannot write to workdir="):
            Lease(workdir)

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(builtins, "open", denied)
    with pytest.raises(UserError, match="Permission denied"):
        Lease(tmp_path)
