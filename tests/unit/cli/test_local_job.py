"""Processes of one command here: the first failure ends all, and each has its log."""

import pytest

from palmscale.cli import local_job
from palmscale.cli.local_job import LocalJob


def test_all_that_end_well_are_0(tmp_path):
    job = LocalJob(["--version"], processes=1, logs=tmp_path / "logs")
    assert job.wait() == 0
    assert (tmp_path / "logs/0.log").read_text().startswith("palmscale ")


def test_a_failure_is_its_exit_code_and_its_line(tmp_path):
    job = LocalJob(["trian"], processes=2, logs=tmp_path / "logs")
    assert job.wait() == 2
    assert job.last_line().startswith("palmscale: error: ")


@pytest.mark.parametrize("processes", [1, 2])
def test_until_something_comes_first(processes, tmp_path, monkeypatch):
    monkeypatch.setattr(local_job.sys, "executable", "/bin/sh")
    (tmp_path / "sh").write_text("")
    monkeypatch.setattr(local_job.subprocess, "Popen", _sleeper(local_job.subprocess.Popen))
    job = LocalJob(["train"], processes=processes, logs=tmp_path / "logs")
    assert job.wait(lambda: True) is None
    job.kill()
    assert job.wait() == -9


def _sleeper(popen):
    return lambda command, **options: popen(["sleep", "1000"], **options)
