"""One job at a time in a workdir of an object store: an object says whose it is.

The holder writes the object again and again, and says in it how long it may be silent at most.
Whoever comes waits so long, and takes the lease if the holder did stay silent. Times are compared
by the store's clock alone, and the store sees to it that of two writers one wins.
"""

import contextlib
import json
import secrets
import threading
import time

from palmscale.errors import UserError
from palmscale.observe import log
from palmscale.storage.objects import ObjectPath, Stat

_REFRESHES = 4  # in the time that the holder may be silent
_CLOSE_SECONDS = 5.0  # for a refresh under way


class ObjectLease:
    """The right to write in a workdir, as long as it is refreshed: by a thread, until `close`.

    `holder` names this job for others; after `stale_seconds` of silence one of them may take it.

    Raises:
        UserError: another job holds it, there is no such bucket, or nothing can be written there.
        OSError: the store does not answer.
    """

    def __init__(self, workdir: ObjectPath, *, holder: str, stale_seconds: float) -> None:
        self._workdir, self._path = workdir, workdir / "LEASE"
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
        """Returns if the lease is held: by what was last heard, or else by asking.

        Raises:
            UserError: another job has taken it.
            OSError: the store does not answer, and the lease may be lost.
        """
        if self._lost is None and time.monotonic() - self._refreshed > self._stale_seconds / 2:
            self._refresh()
        if self._lost is not None:
            raise self._lost

    def close(self) -> None:
        """Lets another job have the workdir at once."""
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
            pass  # This job's own write, if its answer was lost on the way.
        if not self._is_own():
            raise self._in_use()

    def _probed(self) -> float:
        """Returns the store's time, having written and removed an object in the workdir."""
        probe = self._workdir / f"LEASE.{self._token}"
        try:
            probe.write_bytes(self._content)
            now = probe.stat().st_mtime
            probe.unlink()
        except FileNotFoundError:
            raise UserError(
                f"cannot write in the workdir {self._workdir}: there is no bucket"
                f" {self._workdir.bucket} - an existing one is needed - create it, or correct"
                " --workdir."
            ) from None
        except PermissionError as error:
            raise UserError(
                f"cannot write in the workdir {self._workdir}: {error.strerror} - this machine's"
                " account must read, write, list and delete objects there (the role"
                " storage.objectUser) - grant it, or choose another --workdir."
            ) from None
        return now

    def _outwaited(self, found: Stat, now: float) -> int:
        """Returns the generation to write over, once the holder has been silent for too long."""
        facts = self._read()
        holder, stale_seconds = _holder(facts), facts.get("stale_seconds", self._stale_seconds)
        left = stale_seconds - (now - found.st_mtime)
        deadline = time.monotonic() + left
        if left > 0:
            log.say(
                f"Looking for {left:.0f} s at most whether the job that has {self._workdir}"
                f" ({holder}) still runs."
            )
        while time.monotonic() < deadline:
            time.sleep(min(stale_seconds / _REFRESHES / 4, 1.0))
            latest = self._found()
            if latest is None:
                return 0
            if latest.generation != found.generation:
                raise self._in_use()
        log.warn(
            f"the job that had {self._workdir} ({holder}) has been silent for more than"
            f" {stale_seconds:g} s: its lease is taken over."
        )
        return found.generation

    def _go_on(self) -> None:
        while not self._ended.wait(self._stale_seconds / _REFRESHES) and self._lost is None:
            with contextlib.suppress(OSError):  # Tried again; `check` sees how long it has been.
                self._refresh()

    def _refresh(self) -> None:
        with self._lock:
            if self._lost is not None or self._ended.is_set():
                return
            began = time.monotonic()
            stat = self._found()
            if stat is None or self._is_own():  # None: somebody has removed it.
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
            f"the workdir {self._workdir} is in use by another job ({_holder(self._read())}) - one"
            " job at a time - end it, or choose another --workdir."
        )


def _holder(facts: dict) -> str:
    return facts.get("holder", "unknown")
