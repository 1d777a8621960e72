"""The lease on a workdir: only one job may write to it at a time."""

import datetime
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from palmscale.checkpoint.file_lease import LockedFile, NoLocks, NumberedFile
from palmscale.checkpoint.object_lease import LEASE, ObjectLease
from palmscale.cluster.agree import Peers
from palmscale.errors import UserError
from palmscale.observe import log
from palmscale.storage.objects import ObjectPath
from palmscale.storage.place import Place, place

_ANSWER_SECONDS = 60.0  # for process 0 to say what it wrote
_SHARED_SECONDS = 30.0  # for a network file system to show it
_POLL_SECONDS = 0.1


class Lease:
    """The exclusive right to write to `workdir`, until `close` or the end of the process.

    Creates the workdir. On a file system the lease is an OS lock on the file LEASE, whose content
    names the holder; even `kill -9` releases it. With several processes, process 0 holds the lease
    for all of them, and the others hold nothing.

    An object store and some file systems have no such lock. There, another job may take over the
    lease once its holder has not renewed it for `stale_seconds`; see `ObjectLease` and
    `NumberedFile`.

    Raises:
        UserError: a running job holds the lease, or the workdir is not writable.
        HostLost: a job that has not renewed the lease for `stale_seconds` still holds the lock.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str] | ObjectPath,
        *,
        process_index: int = 0,
        stale_seconds: float = 60.0,
    ) -> None:
        self.workdir: Place = place(workdir)
        self._held: LockedFile | NumberedFile | ObjectLease | None = None
        if process_index != 0:
            return
        if isinstance(self.workdir, ObjectPath):
            self._held = ObjectLease(self.workdir, holder=_holder(), stale_seconds=stale_seconds)
        else:
            self._held = _on_disk(self.workdir, stale_seconds)

    def check(self) -> None:
        """Checks that this job still holds the lease.

        Raises:
            UserError: another job has taken it over.
            OSError: the store does not respond, so the holder is unknown.
        """
        if self._held is not None:
            self._held.check()

    def close(self) -> None:
        """Releases the lease."""
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


def check_shared(workdir: Place, peers: Peers) -> None:
    """Checks that all processes see one workdir, whose lease process 0 holds.

    Each alone would save a part of a state. All processes must call this.

    Raises:
        UserError: a process does not see what process 0 wrote.
        HostLost: a process did not respond in time.
    """
    path = workdir / LEASE
    token = peers.decide("workdir", "", lambda texts: path.read_text(), _ANSWER_SECONDS)
    deadline = time.monotonic() + _SHARED_SECONDS
    while not path.exists() or token not in path.read_text():
        if time.monotonic() > deadline:
            raise UserError(
                f"{peers.name(peers.index)} does not see in the workdir {workdir.absolute()} what"
                f" {peers.name(0)} wrote there; use a workdir on storage that all hosts share."
            )
        time.sleep(_POLL_SECONDS)


def _on_disk(workdir: Path, stale_seconds: float) -> LockedFile | NumberedFile:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        try:
            return LockedFile(workdir, holder=_holder(), stale_seconds=stale_seconds)
        except NoLocks as error:
            log.say(
                f"The file system of {workdir} has no locks ({error.strerror}): this job holds the"
                " workdir by a file that it renews."
            )
            return NumberedFile(workdir, holder=_holder(), stale_seconds=stale_seconds)
    except OSError as error:
        raise UserError(
            f"cannot write to workdir={workdir}: {error.strerror}; make it writable or choose"
            " another workdir."
        ) from error


def _holder() -> str:
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return f"pid {os.getpid()} on {socket.gethostname()} since {started}"
