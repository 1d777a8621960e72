"""The lease on a workdir in an object store: an object names the job that holds it.

The holder rewrites the object periodically and states in it how long it may stay silent. A new job
waits that long and takes over the lease if the holder has not refreshed it. All times come from the
store's clock, and the store's generation preconditions let only one of two writers win.
"""

import contextlib
import json
import secrets
import threading
import time

from palmscale.errors import UserError
from palmscale.observe import log
from palmscale.storage.objects import ObjectPath, Stat

_REFRESHES = 4  # per period of allowed silence
_CLOSE_SECONDS = 5.0  # to wait for a refresh in progress

LEASE = "LEASE"  # the file in the workdir; a workdir on a disk uses the same name


class ObjectLease:
    """The exclusive right to write to a workdir; a thread refreshes it until `close`.

    `holder` describes this job to other jobs. After `stale_seconds` without a refresh, another job
    may take over the lease.

    Raises:
        UserError: another job holds the lease, or the bucket is missing or not writable.
        OSError: the store does not respond.
    """

    def __init__(self, workdir: ObjectPath, *, holder: str, stale_seconds: float) -> None:
        self._workdir, self._path = workdir, workdir / LEASE
        self._token = secrets.token_hex(8)
        self._stale_seconds = stale_seconds
        facts = {"holder": holder, "token": self._token, "stale_seconds": stale_seconds}
        self._content = json.dumps(facts).encode()
        self._lock = threading.Lock()
        self._lost: UserError | None = None
        self._take()
        self._refreshed = time.monotonic()
        self._ended = threading.Event()
        self._refresher = threading.Thread(target=self._go_on, name="lease", daemon=True)
        self._refresher.start()

    def check(self) -> None:
        """Checks that this job still holds the lease; asks the store if the last refresh is old.

        Raises:
            UserError: another job has taken it over.
            OSError: the store does not respond, so the lease may be lost.
        """
        if self._lost is None and time.monotonic() - self._refreshed > self._stale_seconds / 2:
            self._refresh()
        if self._lost is not None:
            raise self._lost

    def close(self) -> None:
        """Releases the lease, so that another job can take it immediately."""
        self._ended.set()
        self._refresher.join(_CLOSE_SECONDS)
        with contextlib.suppress(OSError, ValueError):
            stat = self._path.stat()
            if self._is_own():
                self._path.unlink(generation=stat.generation)

    def _take(self) -> None:
        now = self._probed()
        found = self._found()
        generation = 0 if found is None else self._outwaited(found, now)
        try:
            self._path.write_over(generation, self._content)
        except FileExistsError:
            pass  # May be this job's own write, if its response was lost.
        if not self._is_own():
            raise self._in_use()

    def _probed(self) -> float:
        """Returns the store's current time, after a test write to the workdir."""
        probe = self._workdir / f"{LEASE}.{self._token}"
        try:
            probe.write_bytes(self._content)
            now = probe.stat().st_mtime
            probe.unlink()
        except FileNotFoundError:
            raise UserError(
                f"cannot write to workdir={self._workdir}: the bucket {self._workdir.bucket}"
                " does not exist; create it or choose another workdir."
            ) from None
        except PermissionError as error:
            raise UserError(
                f"cannot write to workdir={self._workdir}: {error.strerror}; this machine's"
                " account must be able to read, write, list and delete objects there: grant it the"
                " role storage.objectUser or choose another workdir."
            ) from None
        return now

    def _outwaited(self, found: Stat, now: float) -> int:
        """Returns the generation to overwrite, once the holder has been silent for too long."""
        facts = self._read()
        holder, stale_seconds = _holder(facts), facts.get("stale_seconds", self._stale_seconds)
        left = stale_seconds - (now - found.st_mtime)
        deadline = time.monotonic() + left
        if left > 0:
            log.say(
                f"Waiting up to {left:.0f} s to see whether the job that holds {self._workdir}"
                f" ({holder}) is still running."
            )
        while time.monotonic() < deadline:
            time.sleep(min(stale_seconds / _REFRESHES / 4, 1.0))
            latest = self._found()
            if latest is None:
                return 0
            if latest.generation != found.generation:
                raise self._in_use()
        log.warn(
            f"the job that held {self._workdir} ({holder}) has been silent for more than"
            f" {stale_seconds:g} s; taking over its lease."
        )
        return found.generation

    def _go_on(self) -> None:
        while not self._ended.wait(self._stale_seconds / _REFRESHES) and self._lost is None:
            with contextlib.suppress(OSError):  # Retried; `check` notices a long outage.
                self._refresh()

    def _refresh(self) -> None:
        with self._lock:
            if self._lost is not None or self._ended.is_set():
                return
            began = time.monotonic()
            stat = self._found()
            if stat is None or self._is_own():  # None: somebody deleted the object.
                with contextlib.suppress(FileExistsError):  # As in `_take`.
                    self._path.write_over(stat.generation if stat else 0, self._content)
            if not self._is_own():
                self._lost = self._in_use()
            else:
                self._refreshed = began

    def _found(self) -> Stat | None:
        try:
            return self._path.stat()
        except FileNotFoundError:
            return None

    def _is_own(self) -> bool:
        return self._read().get("token") == self._token

    def _read(self) -> dict:
        try:
            return json.loads(self._path.read_bytes())
        except (FileNotFoundError, ValueError):
            return {}

    def _in_use(self) -> UserError:
        return UserError(
            f"the workdir {self._workdir} is in use by another job ({_holder(self._read())}); stop"
            " that job or choose another workdir."
        )


def _holder(facts: dict) -> str:
    return facts.get("holder", "unknown")
