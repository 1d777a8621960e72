"""The lease on a workdir: only one job may write to it at a time."""

import datetime
import fcntl
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from palmscale.checkpoint.object_lease import LEASE, ObjectLease
from palmscale.errors import UserError
from palmscale.storage.objects import ObjectPath
from palmscale.storage.place import Place, place


class Lease:
    """The exclusive right to write to `workdir`, until `close` or the end of the process.

    Creates the workdir. On a file system the lease is an OS lock on the file LEASE, whose content
    names the holder; even `kill -9` releases it. With several processes, process 0 holds the lease
    for all of them, and the others hold nothing.

    An object store has no such lock. There, another job may take over the lease once its holder has
    not refreshed it for `stale_seconds`; see `ObjectLease`.

    Raises:
        UserError: another job holds the lease, or the workdir is not writable.
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
        """Checks that this job still holds the lease.

        Raises:
            UserError: another job has taken it over.
            OSError: the store does not respond, so the holder is unknown.
        """
        if isinstance(self._held, ObjectLease):
            self._held.check()

    def close(self) -> None:
        """Releases the lease. The lock file stays: removing it would be a race."""
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
    path = workdir / LEASE
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot write to workdir={workdir}: {error.strerror}; make it writable or choose"
            " another workdir."
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise UserError(
            f"the workdir {workdir} is in use by another job ({holder}); stop that job or choose"
            " another workdir."
        ) from error
    file.truncate(0)
    file.write(f"{_holder()}\n")
    file.flush()
    return file


def _holder() -> str:
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return f"pid {os.getpid()} on {socket.gethostname()} since {started}"
