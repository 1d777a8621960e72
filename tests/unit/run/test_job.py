"""Joining and leaving a job; several processes are in tests/e2e/test_many_processes.py."""

import jax
import pytest

from palmscale.cluster.join import Deadlines
from palmscale.run.job import joined


def test_a_process_of_its_own_leads_and_raises_what_goes_wrong():
    deadlines = Deadlines(step_seconds=5)
    with joined(None, simulated_devices=None, deadlines=deadlines) as job:
        assert job.leads and job.peers.count == 1 and job.deadlines == deadlines
    with pytest.raises(KeyError, match="a fault"):
        with joined(None, simulated_devices=None):
            raise KeyError("a fault")


def test_a_second_job_in_one_process_finds_the_devices_of_the_first():
    for _ in range(2):
        with joined(None, simulated_devices=jax.local_device_count()) as job:
            assert job.peers.count == 1
