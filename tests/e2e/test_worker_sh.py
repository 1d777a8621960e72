"""launch/worker.sh: outlives who started it, starts again by the exit code, and ends when told."""

import os
import pathlib
import signal
import subprocess
import time

import pytest
import tiny_run

WORKER = str(tiny_run.CHECKOUT / "launch/worker.sh")


@pytest.fixture
def worker(tmp_path):
    """worker.sh with a state folder of its own; whatever it runs is gone after the test."""
    state = tmp_path / "state of it's own"

    def call(action, *arguments):
        done = subprocess.run(
            [WORKER, action, f"--state={state}", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    call.state = state
    yield call
    for name in ("supervisor", "pid"):
        if (state / name).exists():
            os.kill(int((state / name).read_text()), signal.SIGKILL)


def until(true, seconds=20):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def fields(worker):
    state, code, attempts, pid, _, last = worker("status").rstrip("\n").split("\t")
    return state, code, attempts, pid, last


@pytest.mark.parametrize("code", [0, 2, 130])
def test_done_a_mistake_and_ctrl_c_are_final(worker, code):
    worker("start", "--", "bash", "-c", f"echo 'palmscale: error: so'; exit {code}")
    until((worker.state / "code").exists)
    assert fields(worker) == ("ended", str(code), "1", "-", "palmscale: error: so")


@pytest.mark.parametrize("end", ["exit 75", "exit 1", "kill -9 $$", "kill -ABRT $$"])
def test_anything_else_is_started_again_within_the_bound(worker, end):
    worker("start", "--max-restarts=1", "--", "bash", "-c", end)
    until((worker.state / "code").exists)
    state, code, attempts, *_ = fields(worker)
    assert (state, attempts) == ("ended", "2") and code in ("75", "1", "137", "134")


def test_a_second_start_says_that_it_runs_and_leaves_it_alone(worker):
    worker("start", "--", "sleep", "60")
    until((worker.state / "pid").exists)
    first = fields(worker)
    assert "already running: sleep 60" in worker("start", "--", "sleep", "61")
    assert fields(worker) == first and first[0] == "running"


def test_it_outlives_the_session_of_who_started_it(worker, tmp_path):
    starter = subprocess.Popen(
        [WORKER, "start", f"--state={worker.state}", "--", "sleep", "60"], start_new_session=True
    )
    starter.wait(20)
    until((worker.state / "pid").exists)
    pid = int((worker.state / "pid").read_text())
    assert os.getsid(pid) not in (starter.pid, os.getsid(0))
    with pytest.raises(ProcessLookupError):
        os.killpg(starter.pid, signal.SIGHUP)
    assert fields(worker)[0] == "running"


def test_stop_lets_it_save_and_nothing_is_started_again(worker, tmp_path):
    save = f"trap 'sleep 0.5; touch {tmp_path}/saved; exit 75' TERM; echo up; "
    save += "while :; do sleep 0.1; done"
    worker("start", "--", "bash", "-c", save)
    until(lambda: (worker.state / "log").exists() and "up" in (worker.state / "log").read_text())
    assert "stopped with exit code 75" in worker("stop")
    assert (tmp_path / "saved").exists() and fields(worker)[2] == "1"


SAVES = "trap 'sleep 1; echo saved; exit 75' TERM; echo up; while :; do sleep 0.1; done"


def started(worker, command):
    """Starts a command that says `up`; returns the pids of its supervisor and of the command."""
    worker("start", "--", "bash", "-c", command)
    log = worker.state / "log"
    until(lambda: log.exists() and "up" in log.read_text() and (worker.state / "pid").exists())
    return [int((worker.state / name).read_text()) for name in ("supervisor", "pid")]


def test_a_command_whose_supervisor_is_killed_saves_and_ends_and_is_seen_until_then(worker):
    supervisor, _ = started(worker, SAVES)
    os.kill(supervisor, signal.SIGKILL)
    assert fields(worker)[0] == "running"
    assert worker("start", "--", "true").startswith("already running: bash -c trap")
    until((worker.state / "code").exists)
    assert "saved" in (worker.state / "log").read_text()
    state, code, _, pid, last = fields(worker)
    assert (state, code, pid) == ("ended", "137", "-") and "supervisor was killed" in last
    assert worker("start", "--", "true") == "started\n"
    until((worker.state / "code").exists)
    assert fields(worker)[:2] == ("ended", "0")


@pytest.mark.parametrize("witness", ["alive", "killed"])
def test_stop_ends_a_command_that_has_lost_its_supervisor(witness, worker):
    supervisor, _ = started(worker, SAVES)
    if witness == "killed":
        until((worker.state / "witness").exists)
        os.kill(int((worker.state / "witness").read_text()), signal.SIGKILL)
    os.kill(supervisor, signal.SIGKILL)
    assert fields(worker)[0] == "running"
    assert "supervisor had been killed" in worker("stop")
    assert (worker.state / "log").read_text().count("saved") == 1
    assert fields(worker)[0] != "running" and "not running" in worker("stop")


def test_stop_between_two_attempts_starts_none(worker):
    worker("start", "--", "bash", "-c", "exit 75")
    until(lambda: "restart 1" in (worker.state / "log").read_text())
    assert "stopped with exit code 75" in worker("stop")
    assert fields(worker)[2] == "1"


def test_a_pid_that_is_now_anothers_is_not_taken_for_the_run(worker):
    worker.state.mkdir()
    other = subprocess.Popen(["sleep", "60"])
    try:
        (worker.state / "supervisor").write_text(f"{other.pid}\n")
        assert "not running" in worker("stop")
        assert worker("start", "--", "true") == "started\n"
        until((worker.state / "code").exists)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
    pathlib.Path(worker.state / "pid").unlink(missing_ok=True)
