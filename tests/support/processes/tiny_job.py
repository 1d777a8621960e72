"""The tiny run of tiny_run.py on several real processes of this machine, and what befalls them."""

import os
import signal
import socket
import subprocess
import sys
import time

import forked
import tiny_run

DRIVER = """
import sys
{code}
from palmscale.cli.main import main
sys.argv[0] = "palmscale"
main()
"""
# Runs before a process's own work: it stands or fails when it is to read the batch of a step.
AT_STEP = """
import time
from palmscale.data.feed import Feed
next_batch = Feed.__next__
def disturbed(self):
    cursor, batch = next_batch(self)
    if cursor.step == {step}:
        {act}
    return cursor, batch
Feed.__next__ = disturbed
"""
HEARTBEAT_SECONDS = 6
QUICK = {"HEARTBEAT_SECONDS": HEARTBEAT_SECONDS, "JOIN_SECONDS": 120}
# What a fault is tried on: two processes of one device each.
PAIR = QUICK | {"DATA": 2, "MODEL_PARALLEL": 1, "SIMULATED_DEVICES": 1, "SAVE_EVERY_STEPS": 2}


class Job:
    """Processes of one command; `logs` is the folder of their output, one file a process.

    `code` is run before a process's own work, by its index; `prefix` gives the beginning of its
    command line, and `host` is where process 0 listens.
    """

    def __init__(
        self,
        command,
        logs,
        *,
        processes,
        code=None,
        environment=None,
        host="localhost",
        prefix=lambda index: [],
    ):
        logs.mkdir(parents=True, exist_ok=True)
        self.logs = [logs / f"{index}.log" for index in range(processes)]
        self.ended = {}
        port = free_port()
        self.processes = []
        for index, log in enumerate(self.logs):
            place = {
                "JAX_COORDINATOR_ADDRESS": f"{host}:{port}",
                "JAX_NUM_PROCESSES": str(processes),
                "JAX_PROCESS_ID": str(index),
            }
            driver = DRIVER.format(code=(code or {}).get(index, ""))
            with open(log, "wb") as file:
                popen = subprocess.Popen if prefix(index) else forked.Popen
                self.processes.append(
                    popen(
                        [*prefix(index), sys.executable, "-u", "-c", driver, *map(str, command)],
                        stdout=file,
                        stderr=subprocess.STDOUT,
                        cwd=tiny_run.CHECKOUT,
                        env=os.environ | place | (environment or {}),
                    )
                )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for process in self.processes:
            process.kill()
            process.wait()

    def said(self, index):
        """What a process has said so far."""
        return self.logs[index].read_text(errors="replace")

    def wait(self, seconds=240):
        """The exit codes of all, in order; fails where one does not end in time."""
        end = time.monotonic() + seconds
        while len(self.ended) < len(self.processes):
            self._note()
            assert time.monotonic() < end, self._told(f"still running after {seconds} s")
            time.sleep(0.05)
        return [self.ended[index][0] for index in range(len(self.processes))]

    def _note(self):
        for index, process in enumerate(self.processes):
            if index not in self.ended and process.poll() is not None:
                self.ended[index] = process.returncode, time.monotonic()

    def when(self, condition, seconds=240):
        """Waits until the condition holds; fails where a process ends first."""
        end = time.monotonic() + seconds
        while not condition():
            self._note()
            assert not self.ended, self._told("ended too soon")
            assert time.monotonic() < end, self._told("never came there")
            time.sleep(0.01)

    def send(self, index, number=signal.SIGKILL):
        """Sends a process a signal; the moment of it."""
        self.processes[index].send_signal(number)
        return time.monotonic()

    def _told(self, why):
        tails = [f"--- {index}\n{self.said(index)[-3000:]}" for index in range(len(self.logs))]
        return "\n".join([why, *tails])

    def succeed(self, seconds=240):
        """Waits for all, which must all exit with 0."""
        assert self.wait(seconds) == [0] * len(self.processes), self._told("failed")


def steps_done(workdir):
    """How many steps metrics.jsonl tells of."""
    path = workdir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def free_port():
    """A port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]
