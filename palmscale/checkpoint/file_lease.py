"""The lease on a workdir on a file system: a lock on a file, or the newest of numbered files.

Both kinds of holder renew their file's modification time. A new job that finds a holder watches
that time: it changes while the holder runs, and stands still once the holder is stopped or its host
is gone. Only changes count, so clocks need not agree.
"""

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from palmscale.checkpoint.object_lease import LEASE
from palmscale.errors import HostLost, UserError
from palmscale.observe import log

_RENEW_SECONDS = 1.0
_RENEWALS = 3  # that a holder who runs makes one of
_POLL_SECONDS = 0.1
_NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}


class NoLocks(OSError):
    """The file system has no locks."""


class LockedFile:
    """A lease that is an OS lock on the file LEASE, until `close` or the end of the process.

    The file's content is `holder`, which describes this job to other jobs.

    Raises:
        UserError: a running job holds the lease.
        HostLost: a job that has not renewed the lease for `stale_seconds` still holds the lock.
        NoLocks: the file system has none.
        OSError: the workdir is not writable.
    """

    def __init__(self, workdir: Path, *, holder: str, stale_seconds: float) -> None:
        self._file = _locked(workdir, stale_seconds)
        _check_alone(workdir, holder)
        self._file.truncate(0)
        with contextlib.suppress(OSError):  # a full disk: the lock counts, not who is named
            self._file.write(f"{holder}\n".encode())
        self._renewal = _Renewal(lambda: os.utime(self._file.fileno()), stale_seconds)

    def check(self) -> None:
        """Does nothing: a lock is never lost while its file is open."""

    def close(self) -> None:
        """Releases the lease. The file stays, empty: removing it would be a race."""
        self._renewal.end()
        with contextlib.suppress(OSError):
            self._file.truncate(0)
        self._file.close()


class NumberedFile:
    """A lease for file systems without locks: the file LEASE.N with the highest number.

    Creating the next number takes the lease; the file system lets only one of several jobs create a
    file. A job does so once the holder has not renewed its file for `stale_seconds`. LEASE has the
    same content, `holder`, as with a lock.

    Raises:
        UserError: a running job holds the lease.
        OSError: the workdir is not writable.
    """

    def __init__(self, workdir: Path, *, holder: str, stale_seconds: float) -> None:
        self._workdir = workdir
        self._number = self._outwaited(stale_seconds) + 1
        try:
            with open(self._path, "x", encoding="utf-8") as file:
                file.write(f"{holder}\n")
        except FileExistsError:
            raise _in_use(workdir, self._path) from None
        for number in self._numbers():
            if number < self._number:
                self._path_of(number).unlink(missing_ok=True)
        (workdir / LEASE).write_text(f"{holder}\n")
        self._renewal = _Renewal(self._path.touch, stale_seconds)

    def check(self) -> None:
        """Checks that no other job has taken over the lease.

        Raises:
            UserError: one has.
            OSError: the file system does not respond, so the holder is unknown.
        """
        newest = max(self._numbers(), default=0)
        if newest > self._number:
            raise _in_use(self._workdir, self._path_of(newest))

    def close(self) -> None:
        """Releases the lease, so that another job can take it immediately."""
        self._renewal.end()
        with contextlib.suppress(OSError):
            self._path.unlink()

    @property
    def _path(self) -> Path:
        return self._path_of(self._number)

    def _path_of(self, number: int) -> Path:
        return self._workdir / f"{LEASE}.{number}"

    def _numbers(self) -> list[int]:
        names = [name.removeprefix(f"{LEASE}.") for name in os.listdir(self._workdir)]
        return [int(name) for name in names if name.isdecimal()]

    def _outwaited(self, stale_seconds: float) -> int:
        """Returns the highest number once its holder is gone or silent; 0: there is none."""
        while newest := max(self._numbers(), default=0):
            with contextlib.suppress(FileNotFoundError):
                watch = _Watch(self._workdir, self._path_of(newest), stale_seconds)
                while not watch.is_over():
                    time.sleep(_POLL_SECONDS)
                log.warn(f"taking over the workdir: {watch.silent_holder()}.")
                return newest
        return 0


class _Watch:
    """Watches whether a holder renews its file. FileNotFoundError: the file is gone."""

    def __init__(self, workdir: Path, path: Path, stale_seconds: float) -> None:
        self._workdir, self._path, self._stale_seconds = workdir, path, stale_seconds
        self._stamp = self._now()
        self._deadline = time.monotonic() + stale_seconds
        log.say(
            f"Waiting up to {stale_seconds:g} s to see whether the job that holds {workdir}"
            f" ({_holder(path)}) is still running."
        )

    def is_over(self) -> bool:
        """Returns whether the holder has been silent for too long; UserError: it has not."""
        if self._now() != self._stamp:
            raise _in_use(self._workdir, self._path)
        return time.monotonic() > self._deadline

    def silent_holder(self) -> str:
        """Returns who was silent, for a message."""
        return (
            f"the job that holds {self._workdir} ({_holder(self._path)}) has not renewed its lease"
            f" for {self._stale_seconds:g} s: it is stopped, or its host is gone"
        )

    def _now(self) -> int:
        # A network file system asks its server on `open`, and may answer `stat` from a cache.
        with open(self._path, encoding="utf-8") as file:
            return os.fstat(file.fileno()).st_mtime_ns


class _Renewal:
    """A thread that renews a lease until `end`. The holder of a lease that it cannot renew seems
    stopped to other jobs, and keeps the lease until another job takes it."""

    def __init__(self, renew: Callable[[], None], stale_seconds: float) -> None:
        self._renew, self._seconds = renew, min(_RENEW_SECONDS, stale_seconds / 4)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="lease", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _go_on(self) -> None:
        while not self._ended.wait(self._seconds):
            with contextlib.suppress(OSError):  # retried
                self._renew()


def _locked(workdir: Path, stale_seconds: float) -> BinaryIO:
    """Returns the file LEASE, locked; waits for a holder that is silent."""
    path, watch = workdir / LEASE, None
    while True:
        file = open(path, "ab+", buffering=0)  # anew each time: it may be another file by now
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            file.close()
        except OSError as error:
            file.close()
            if error.errno in _NO_LOCKS:
                raise NoLocks(*error.args) from None
            raise
        watch = watch or _Watch(workdir, path, stale_seconds)
        if watch.is_over():
            raise HostLost(
                f"{watch.silent_holder()}; end that job if it still exists, and start again"
            )
        time.sleep(_POLL_SECONDS)


def _check_alone(workdir: Path, holder: str) -> None:
    """Checks that a holder on another host is gone: some file systems lock on each host alone."""
    last = _host(_holder(workdir / LEASE))
    if last and last != _host(holder):
        watch = _Watch(workdir, workdir / LEASE, _RENEWALS * _RENEW_SECONDS)
        while not watch.is_over():
            time.sleep(_POLL_SECONDS)


def _host(holder: str) -> str:
    """Returns the host in `pid 7 on host since 2026-01-01`; empty if there is none."""
    return holder.partition(" on ")[2].partition(" since ")[0]


def _in_use(workdir: Path, path: Path) -> UserError:
    return UserError(
        f"the workdir {workdir} is in use by another job ({_holder(path)}); stop that job or choose"
        " another workdir."
    )


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(errors="replace").strip() or "unknown"
    return "unknown"
