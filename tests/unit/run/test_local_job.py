"""Processes of one command here: the first failure ends all, and each has its log."""

import os
import subprocess
import sys
import time

import pytest

from palmscale.run.local_job import LocalJob


def job_of(folder, *command, processes=1):
    return LocalJob(command, processes=processes, logs=folder / "logs", environment=os.environ)


def test_all_that_end_well_are_0(tmp_path):
    assert job_of(tmp_path, "echo", "done").wait() == 0
    assert (tmp_path / "logs/0.log").read_text() == "done\n"


def test_a_failure_is_its_exit_code_and_its_line(tmp_path):
    code = "import sys; print('palmscale: error: no'); sys.exit(2)"
    job = job_of(tmp_path, sys.executable, "-c", code, processes=2)
    assert job.wait() == 2
    assert job.last_line() == "palmscale: error: no"


@pytest.mark.parametrize("processes", [1, 2])
def test_until_something_comes_first(processes, tmp_path):
    job = job_of(tmp_path, "sleep", "1000", processes=processes)
    assert job.wait(lambda: True) is None
    job.kill()
    assert job.wait() == -9


def test_processes_end_with_the_one_that_started_them(tmp_path):
    code = f"""
import os, pathlib, sys, time
from palmscale.run.local_job import LocalJob
said = [sys.executable, "-uc", "import os, time; print(os.getpid()); time.sleep(1000)"]
job = LocalJob(said, processes=2, logs=pathlib.Path({str(tmp_path)!r}), environment=os.environ)
job.wait(lambda: all(log.read_text() for log in job.logs))
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == -9
    pids = [int((tmp_path / f"{index}.log").read_text()) for index in range(2)]
    end = time.monotonic() + 60
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_each_process_knows_its_place_and_one_alone_has_none(tmp_path):
    shown = "echo $JAX_COORDINATOR_ADDRESS $JAX_NUM_PROCESSES $JAX_PROCESS_ID"
    assert job_of(tmp_path, "sh", "-c", shown, processes=2).wait() == 0
    places = [(tmp_path / f"logs/{index}.log").read_text().split() for index in range(2)]
    assert [place[1:] for place in places] == [["2", "0"], ["2", "1"]]
    assert places[0][0] == places[1][0]
    assert job_of(tmp_path / "one", "sh", "-c", shown).wait() == 0
    assert (tmp_path / "one/logs/0.log").read_text() == "\n"
