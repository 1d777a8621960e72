"""One job at a time in a workdir."""

import datetime
import fcntl
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from palmscale.checkpoint.object_lease import ObjectLease
from palmscale.errors import UserError
from palmscale.storage.objects import ObjectPath
from palmscale.storage.place import Place, place


class Lease:
    """The right to write in `workdir`, until `close` or the end of the process, kill -9 included.

    It is the operating system's lock on the file LEASE, whose content names the holder. Makes the
    workdir. Raises UserError where another job holds it, or nothing can be written there.
    With several processes, process 0 holds it for all; the others only say that they are others.

    In an object store, where nothing ends with the process, another job may take the lease of a
    holder that has been silent for `stale_seconds`; see `ObjectLease`.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str] | ObjectPath,
        *,
        process_index: int = 0,
        stale_seconds: float = 60.0,
    ) -> None:
        self.workdir: Place = place(workdir)
        self._held: IO[str] | ObjectLease | None = None
        if process_index != 0:
            return
        if isinstance(self.workdir, ObjectPath):
            self._held = ObjectLease(self.workdir, holder=_holder(), stale_seconds=stale_seconds)
        else:
            self._held = _locked_file(self.workdir)

    def check(self) -> None:
        """Raises UserError where another job has taken the lease, OSError where that is unknown."""
        if isinstance(self._held, ObjectLease):
            self._held.check()

    def close(self) -> None:
        """Lets another job have the workdir. A file stays: removing it would race."""
        if self._held is not None:
            self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _locked_file(workdir: Path) -> IO[str]:
    path = workdir / "LEASE"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot write in the workdir {workdir}: {error.strerror} - a "
            "writable folder is needed - choose another --workdir."
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise UserError(
            f"the workdir {workdir} is in use by another job ({holder}) - one "
            "job at a time - end it, or choose another --workdir."
        ) from error
    file.truncate(0)
    file.write(f"{_holder()}\n")
    file.flush()
    return file


def _holder() -> str:
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return f"pid {os.getpid()} on {socket.gethostname()} since {started}"
