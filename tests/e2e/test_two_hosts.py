"""Two network namespaces as two hosts: they train; a cut ends both, a blip does not."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

import pytest
import tiny_job
import tiny_run
from tiny_job import HEARTBEAT_SECONDS, QUICK, Job

HOSTS = ("palmscale-a", "palmscale-b")
ADDRESSES = ("10.231.7.1", "10.231.7.2")
LINKS = ("palmscale-va", "palmscale-vb")


def ip(*arguments, check=True):
    return subprocess.run(["ip", *arguments], check=check, capture_output=True, text=True)


def can_make_namespaces():
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    probe = f"palmscale-{os.getpid()}"  # each worker of the suite asks, at the same time
    made = ip("netns", "add", probe, check=False).returncode == 0
    ip("netns", "delete", probe, check=False)
    return made


pytestmark = pytest.mark.skipif(
    not can_make_namespaces(), reason="network namespaces need root and iproute2"
)


@pytest.fixture
def hosts():
    """Two namespaces joined by a link; each resolves the host name to its own address."""
    remove()
    for host, address in zip(HOSTS, ADDRESSES):
        ip("netns", "add", host)
        # Gloo listens where the host's name leads to.
        folder = pathlib.Path("/etc/netns") / host
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{address} {socket.gethostname()}\n")
    ip("link", "add", LINKS[0], "type", "veth", "peer", "name", LINKS[1])
    for host, address, link in zip(HOSTS, ADDRESSES, LINKS):
        ip("link", "set", link, "netns", host)
        ip("-n", host, "addr", "add", f"{address}/24", "dev", link)
        ip("-n", host, "link", "set", link, "up")
        ip("-n", host, "link", "set", "lo", "up")
    yield
    remove()


def remove():
    for host in HOSTS:
        ip("netns", "delete", host, check=False)
        shutil.rmtree(pathlib.Path("/etc/netns") / host, ignore_errors=True)


def start(tiny, workdir, logs, **changes):
    place = QUICK | {"DATA": 2, "MODEL_PARALLEL": 1, "SIMULATED_DEVICES": 1}
    command = tiny(workdir, **(place | changes))
    return Job(
        command,
        logs,
        processes=2,
        host=ADDRESSES[0],
        prefix=lambda index: ["ip", "netns", "exec", HOSTS[index]],
    )


def test_two_hosts_train_through_a_short_blip_of_the_link(tiny, finished, hosts, tmp_path):
    workdir = tmp_path / "run"
    changes = {"TRAIN_STEPS": 100_000, "SAVE_EVERY_STEPS": 1000, "EVAL_EVERY_STEPS": 1000}
    # After three seconds without the link, TCP may wait as long again before it tries anew.
    changes["HEARTBEAT_SECONDS"] = 5 * HEARTBEAT_SECONDS
    with start(tiny, workdir, tmp_path / "logs", **changes) as job:
        job.when(lambda: tiny_job.steps_done(workdir) >= 5)
        ip("-n", HOSTS[1], "link", "set", LINKS[1], "down")
        time.sleep(3)
        done = tiny_job.steps_done(workdir)
        ip("-n", HOSTS[1], "link", "set", LINKS[1], "up")
        job.when(lambda: tiny_job.steps_done(workdir) >= done + 10)
        job.send(0, signal.SIGTERM)
        assert job.wait(60) == [75, 75]


def test_a_cut_link_ends_both_within_the_heartbeat(tiny, finished, hosts, tmp_path):
    workdir = tmp_path / "run"
    with start(tiny, workdir, tmp_path / "logs", TRAIN_STEPS=100_000) as job:
        job.when(lambda: tiny_run.steps(workdir))
        ip("-n", HOSTS[1], "link", "set", LINKS[1], "down")
        cut = time.monotonic()
        codes = job.wait(HEARTBEAT_SECONDS + 30)
        late = max(moment for _, moment in job.ended.values()) - cut
    assert all(code in (75, -6) for code in codes), job.said(0) + job.said(1)
    assert late < HEARTBEAT_SECONDS + 5
    assert tiny_run.steps(workdir)
