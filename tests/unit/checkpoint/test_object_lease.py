"""The lease of a workdir in a bucket: held by being refreshed, and taken from who is silent."""

import json
import signal
import subprocess
import sys
import threading
import time

import pytest
from small_state import save

from palmscale.checkpoint.lease import Lease
from palmscale.checkpoint.store import CheckpointStore
from palmscale.errors import UserError
from palmscale.storage.place import place

STALE_SECONDS = 4.0
HOLDER = f"""
import sys
from palmscale.checkpoint.lease import Lease
from palmscale.checkpoint.store import CheckpointStore
lease = Lease(sys.argv[1], stale_seconds={STALE_SECONDS})
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def workdir(bucket):
    return place(f"{bucket.url}/run")


@pytest.fixture
def holder(workdir):
    command = [sys.executable, "-c", HOLDER, str(workdir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


def test_a_second_job_is_refused_naming_the_holder(workdir, holder):
    with pytest.raises(UserError, match=f"in use by another job .pid {holder.pid} on .* since 20"):
        Lease(workdir, stale_seconds=STALE_SECONDS)
    assert holder.poll() is None


def test_the_lease_of_a_killed_holder_is_taken_over_with_a_line(workdir, holder, caplog):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    began = time.monotonic()
    with Lease(workdir, stale_seconds=STALE_SECONDS) as lease:
        assert time.monotonic() - began < STALE_SECONDS + 5
        lease.check()
        (line,) = [r.getMessage() for r in caplog.records if "silent" in r.getMessage()]
        assert f"pid {holder.pid} on" in line and "more than 4 s; taking over its lease" in line
    # An old one is taken at once: the store tells how old it is.
    old = {"holder": "pid 7 on elsewhere", "stale_seconds": 1.0}
    (workdir / "LEASE").write_text(json.dumps(old))
    time.sleep(1.1)
    Lease(workdir, stale_seconds=STALE_SECONDS).close()
    assert not any("Waiting up to" in record.getMessage() for record in caplog.records[-1:])


def test_a_closed_lease_can_be_taken_at_once_and_leaves_nothing(workdir, bucket):
    for _ in range(2):
        with Lease(workdir, stale_seconds=100):
            assert bucket.names("run") == ["LEASE"]
        assert bucket.names("") == []


def test_other_processes_of_the_job_do_not_ask(workdir):
    with Lease(workdir, stale_seconds=100), Lease(workdir, process_index=1) as other:
        other.check()


def test_of_many_that_come_at_once_one_gets_it(workdir):
    (workdir / "LEASE").write_text(json.dumps({"holder": "gone", "stale_seconds": 0.5}))
    got, refused = [], []

    def come():
        try:
            got.append(Lease(workdir, stale_seconds=STALE_SECONDS))
        except UserError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=come) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1 and len(refused) == 3 and "in use by another job" in refused[0]
    got[0].close()


def test_who_has_lost_the_lease_is_told_and_leaves_it_alone(workdir):
    with Lease(workdir, stale_seconds=0.4) as lease:
        other = json.dumps({"holder": "pid 7 on elsewhere", "token": "theirs"})
        (workdir / "LEASE").write_text(other)
        time.sleep(0.5)
        with pytest.raises(UserError, match="in use by another job .pid 7 on elsewhere"):
            lease.check()
    assert (workdir / "LEASE").read_text() == other


def test_a_lease_that_somebody_removed_is_written_again(workdir, bucket):
    with Lease(workdir, stale_seconds=0.4) as lease:
        (workdir / "LEASE").unlink()
        time.sleep(0.5)
        lease.check()
        assert bucket.names("run") == ["LEASE"]


def test_a_store_that_does_not_answer_leaves_the_lease_in_doubt_and_then_held(workdir, bucket):
    with Lease(workdir, stale_seconds=1.0) as lease:
        with bucket.failing(status=400):
            time.sleep(0.9)
            with pytest.raises(OSError, match="the object store answers"):
                lease.check()
        lease.check()


def test_a_missing_bucket_and_a_lack_of_permission_are_the_users_mistakes(workdir, bucket):
    words = "the bucket gs://no-such-bucket does not exist"
    with pytest.raises(UserError, match=words):
        Lease("gs://no-such-bucket/run")
    with bucket.failing(status=403), pytest.raises(UserError, match="Permission denied .*grant"):
        Lease(workdir)


def test_who_has_lost_the_lease_saves_nothing_and_ends(workdir, bucket):
    with Lease(workdir, stale_seconds=0.4) as lease:
        with CheckpointStore(workdir / "checkpoints", lease=lease) as store:
            (workdir / "LEASE").write_text(json.dumps({"holder": "pid 7 on elsewhere"}))
            time.sleep(0.5)
            with pytest.raises(UserError, match="in use by another job .pid 7 on elsewhere"):
                save(store, 10)
    assert bucket.names("run") == ["LEASE"]
