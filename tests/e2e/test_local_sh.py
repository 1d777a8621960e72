"""launch/local.sh: all or nothing, restarts within bounds, and the one at fault by name."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import tiny_job
import tiny_run

LOCAL = str(tiny_run.CHECKOUT / "launch/local.sh")


@pytest.fixture
def stand_in(tmp_path):
    """Puts a script in the place of `palmscale`; returns the environment that finds it."""

    def make(script):
        program = tmp_path / "bin/palmscale"
        program.parent.mkdir()
        program.write_text(f"#!/usr/bin/env bash\n{script}\n")
        program.chmod(0o755)
        return os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}"}

    return make


def local(*arguments, env=None, code=0, seconds=60):
    done = subprocess.run(
        [LOCAL, *map(str, arguments)], env=env, capture_output=True, text=True, timeout=seconds
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_all_processes_know_their_place_and_process_0_is_shown(stand_in, tmp_path):
    env = stand_in('echo "$JAX_PROCESS_ID of $JAX_NUM_PROCESSES at $JAX_COORDINATOR_ADDRESS: $*"')
    done = local(3, f"--logs={tmp_path}/logs", "train", "a b", env=env)
    assert "0 of 3 at localhost:" in done.stdout and "1 of 3" not in done.stdout
    assert "2 of 3" in (tmp_path / "logs/process_2.log").read_text()
    assert "train a b" in done.stdout


def test_a_mistake_is_said_once_and_never_restarted(stand_in, tmp_path):
    env = stand_in('echo x >>"$0.runs"; echo "palmscale: error: DIM = 3" >&2; exit 2')
    done = local(2, "train", env=env, code=2)
    assert (tmp_path / "bin/palmscale.runs").read_text() == "x\nx\n"
    assert "exited with code 2: palmscale: error: DIM = 3" in done.stderr


def test_a_fault_is_restarted_so_often_and_then_is_the_jobs(stand_in, tmp_path):
    env = stand_in(
        '[[ $JAX_PROCESS_ID == 1 ]] && { echo x >>"$0.runs"; echo "error: bad"; exit 1; }\n'
        "exec sleep 1"
    )
    done = local(2, "--max-restarts=2", "train", env=env, code=1)
    assert (tmp_path / "bin/palmscale.runs").read_text() == "x\n" * 3
    assert "process 1 of 2 exited with code 1: error: bad" in done.stderr
    assert "restart 2 of 2" in done.stderr


def test_a_job_that_is_restarted_may_end_well(stand_in):
    env = stand_in(
        '[[ -e $0.again ]] && exit 0; [[ $JAX_PROCESS_ID == 1 ]] && touch "$0.again"; exit 75'
    )
    local(2, "train", env=env)


def test_a_killed_process_is_named_and_not_the_ones_it_drags_along(stand_in):
    env = stand_in("[[ $JAX_PROCESS_ID == 2 ]] && kill -9 $$; sleep 1; kill -ABRT $$")
    done = local(3, "--max-restarts=0", "train", env=env, code=75)
    assert "process 2 of 3 was ended by signal 9" in done.stderr


def test_a_stopped_process_is_named_and_killed_after_the_grace(stand_in):
    env = stand_in("[[ $JAX_PROCESS_ID == 1 ]] && kill -STOP $$; sleep 1; kill -ABRT $$")
    began = time.monotonic()
    done = local(2, "--max-restarts=0", "--grace=2", "train", env=env, code=75)
    assert "process 1 of 2 stands still (stopped)" in done.stderr
    assert time.monotonic() - began < 20


def test_sigterm_is_passed_on_and_is_no_restart(stand_in):
    env = stand_in("trap 'exit 75' TERM; echo ready; while :; do sleep 0.1; done")
    job = subprocess.Popen([LOCAL, "2", "train"], env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert job.stdout.readline() == "ready\n"
        time.sleep(0.5)
        job.send_signal(signal.SIGTERM)
        assert job.wait(30) == 75
    finally:
        job.kill()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["two", "train"], "'two' is not a number of processes"),
        (["2"], "no command"),
        (["2", "--grace=x", "train"], "--grace=x"),
        (["2", "--max-restarts=-1", "train"], "--max-restarts=-1"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(arguments, said, stand_in):
    done = local(*arguments, env=stand_in("exit 0"), code=2)
    assert len(done.stderr.splitlines()) == 1 and said in done.stderr


def test_without_arguments_it_says_how_it_is_used():
    assert "launch/local.sh 2 train" in local(code=2).stdout


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGKILL, "process 1 of 2 was ended by signal 9"),
        pytest.param(
            signal.SIGSTOP, "process 1 of 2 stands still (stopped)", marks=pytest.mark.long
        ),
    ],
)
def test_two_real_processes_one_killed_or_stopped_go_on_and_end_as_if_nothing_had_been(
    number, said, tiny, finished, tmp_path
):
    workdir = tmp_path / "run"
    command = tiny(workdir, **(tiny_job.PAIR | {"TRAIN_STEPS": 20}))
    env = os.environ | {"PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"}
    arguments = [LOCAL, "2", "--grace=2", f"--logs={tmp_path}/logs", *command]
    with subprocess.Popen(
        arguments, env=env, stderr=subprocess.PIPE, text=True, cwd=tiny_run.CHECKOUT
    ) as job:
        try:
            end = time.monotonic() + 120
            while tiny_job.steps_done(workdir) < 6:
                assert job.poll() is None and time.monotonic() < end
                time.sleep(0.01)
            os.kill(process_of(workdir, index=1), number)
            _, err = job.communicate(timeout=240)
        finally:
            job.terminate()
    assert job.returncode == 0, err
    assert said in err and "restart 1 of 3" in err
    assert tiny_job.steps_done(workdir) == 20


def process_of(workdir, index):
    """The process of that index which trains in the workdir."""
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            here = str(workdir).encode() in (path / "cmdline").read_bytes()
            mark = f"JAX_PROCESS_ID={index}\0".encode()
            if here and mark in (path / "environ").read_bytes():
                return int(path.name)
        except OSError:
            continue
    raise AssertionError(f"no process {index}")


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_end_it_waits_for_the_save_but_not_for_one_that_stands_still(
    stand_in, tmp_path, stop
):
    save = "trap 'sleep 2; echo saved >&2; exit 75' TERM; echo up; while :; do sleep 0.1; done"
    env = stand_in(save)
    for still in (False, True):
        logs = tmp_path / f"still {still}"
        job = subprocess.Popen(
            [LOCAL, "2", "--grace=1", f"--logs={logs}", "train"],
            env=env,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            end = time.monotonic() + 20
            while not all((logs / f"process_{i}.log").exists() for i in (0, 1)) or not all(
                "up" in (logs / f"process_{i}.log").read_text() for i in (0, 1)
            ):
                assert time.monotonic() < end
                time.sleep(0.05)
            if still:
                mine = subprocess.run(
                    ["pgrep", "-s", str(job.pid), "-f", "bin/palmscale train"],
                    capture_output=True,
                    text=True,
                ).stdout.split()
                os.kill(int(mine[-1]), signal.SIGSTOP)
            # A terminal's Ctrl-C reaches the whole group.
            os.killpg(job.pid, stop) if stop == signal.SIGINT else job.send_signal(stop)
            _, err = job.communicate(timeout=20)
        finally:
            try:
                os.killpg(job.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        assert job.returncode == 75 and "restart" not in err
        saved = "".join((logs / f"process_{i}.log").read_text() for i in (0, 1)).count("saved")
        assert still or saved == 2


@pytest.mark.parametrize("save", ["exit 75", ""])
def test_processes_end_with_a_script_that_is_killed(save, stand_in, tmp_path):
    env = stand_in(f"trap '{save}' TERM; echo up $$; while :; do sleep 0.1; done")
    logs = tmp_path / "logs"
    with subprocess.Popen(
        [LOCAL, "2", "--grace=1", f"--logs={logs}", "train"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as job:
        pids = [pid_in(logs / f"process_{index}.log") for index in (0, 1)]
        job.kill()
        # What the processes write to ends with them.
        err = job.communicate(timeout=60)[1]
        assert "local.sh: was killed; its processes are asked to end" in err
    end = time.monotonic() + 60
    while any(pathlib.Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.05)


def pid_in(log):
    """The process that has written `up PID` to its log."""
    end = time.monotonic() + 60
    while not (log.exists() and log.read_text().startswith("up ")):
        assert time.monotonic() < end
        time.sleep(0.05)
    return int(log.read_text().split()[1])
