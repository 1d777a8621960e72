"""One job at a time in a workdir."""

import datetime
import fcntl
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from palmscale.errors import UserError


class Lease:
    """The right to write in `workdir`, until `close` or the end of the process, kill -9 included.

    It is the operating system's lock on the file LEASE, whose content names the holder. Makes the
    workdir. Raises UserError where another job holds it, or nothing can be written there.
    With several processes, process 0 holds it for all; the others only say that they are others.
    """

    def __init__(self, workdir: str | os.PathLike[str], *, process_index: int = 0) -> None:
        self.workdir = Path(workdir)
        self._file = None
        if process_index == 0:
            self._file = self._locked_file()

    def _locked_file(self) -> IO[str]:
        path = self.workdir / "LEASE"
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
            file = open(path, "a+", encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"cannot write in the workdir {self.workdir}: {error.strerror} - a "
                "writable folder is needed - choose another --workdir."
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            raise UserError(
                f"the workdir {self.workdir} is in use by another job ({holder}) - one "
                "job at a time - end it, or choose another --workdir."
            ) from error
        file.truncate(0)
        started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        file.write(f"pid {os.getpid()} on {socket.gethostname()} since {started}\n")
        file.flush()
        return file

    def close(self) -> None:
        """Lets another job have the workdir. The file stays: removing it would race."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
