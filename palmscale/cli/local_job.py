"""A `palmscale` command on several processes of this machine, started and ended together."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_POLL_SECONDS = 0.05
_GRACE_SECONDS = 30.0  # in which the others end by themselves once one has failed


class LocalJob:
    """Processes of one command, each with a log `<logs>/<index>.log`."""

    def __init__(self, arguments: Sequence[str], *, processes: int, logs: Path) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self.logs = [logs / f"{index}.log" for index in range(processes)]
        address = f"localhost:{_free_port()}"
        self._processes = []
        for index, log in enumerate(self.logs):
            command = [sys.executable, "-m", "palmscale", *arguments]
            if processes > 1:
                command += [f"--coordinator={address}", f"--num_processes={processes}"]
                command += [f"--process_id={index}"]
            with open(log, "ab") as file:
                self._processes.append(
                    subprocess.Popen(
                        command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=os.environ
                    )
                )

    def wait(self, until: Callable[[], bool] = lambda: False) -> int | None:
        """Returns the exit code of the first that failed, or 0; None: `until` came first."""
        while not until():
            codes = [process.poll() for process in self._processes]
            if failed := [code for code in codes if code]:
                deadline = time.monotonic() + _GRACE_SECONDS
                while None in codes and time.monotonic() < deadline:
                    time.sleep(_POLL_SECONDS)
                    codes = [process.poll() for process in self._processes]
                self.kill()
                return failed[0]
            if None not in codes:
                return 0
            time.sleep(_POLL_SECONDS)
        return None

    def kill(self) -> None:
        """Kills all with -9, and waits for their end."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()

    def last_line(self) -> str:
        """Returns the last line that says what went wrong, of any process."""
        for log in self.logs:
            lines = log.read_text(errors="replace").splitlines()
            for line in reversed(lines):
                if "error:" in line:
                    return line
        return f"see {self.logs[0].parent}"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]
