"""One job of several processes of this machine, started and ended together."""

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_POLL_SECONDS = 0.05
_GRACE_SECONDS = 30.0  # for the others to exit by themselves once one has failed
# Reads the pids that run, a line each time that they change, and kills them when its input ends.
_END_ORPHANS = """
trap '' INT TERM HUP
while read -r line; do pids=$line; done
[ -z "$pids" ] || kill -KILL $pids
"""


class LocalJob:
    """Processes that run one command, each with a log `<logs>/<index>.log`.

    Each learns its place from JAX's environment variables, as with `launch/local.sh`; the rest of
    its environment is `environment`. They are killed if this process ends before them.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        processes: int,
        logs: Path,
        environment: Mapping[str, str],
    ) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self.logs = [logs / f"{index}.log" for index in range(processes)]
        address = f"localhost:{_free_port()}"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._undertaker = subprocess.Popen(
            ["/bin/sh", "-c", _END_ORPHANS], stdin=subprocess.PIPE, text=True
        )
        for index, log in enumerate(self.logs):
            place = {
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": str(processes),
                "JAX_PROCESS_ID": str(index),
            }
            own = {name: value for name, value in environment.items() if name not in place}
            with open(log, "ab") as file:
                self._processes.append(
                    subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=file,
                        stderr=file,
                        env=own | place if processes > 1 else own,
                    )
                )
            self._tell(" ".join(str(process.pid) for process in self._processes))

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
                self._dismiss_undertaker()
                return 0
            time.sleep(_POLL_SECONDS)
        return None

    def kill(self) -> None:
        """Kills all processes with SIGKILL, and waits for them to end."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        self._dismiss_undertaker()

    def _tell(self, pids: str) -> None:
        """Tells the shell that outlives this process what to kill."""
        with contextlib.suppress(OSError, ValueError):  # it was killed, or dismissed
            self._undertaker.stdin.write(f"{pids}\n")
            self._undertaker.stdin.flush()

    def _dismiss_undertaker(self) -> None:
        self._tell("")
        with contextlib.suppress(OSError):
            self._undertaker.stdin.close()
        self._undertaker.wait()

    def last_line(self) -> str:
        """Returns the last line with an error in any process's log."""
        for log in self.logs:
            for line in reversed(log.read_text(errors="replace").splitlines()):
                if "error:" in line:
                    return line
        return f"see {self.logs[0].parent}"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]
