"""Verified checkpoints: saved while training continues, and restored onto any mesh.

A step is the folder <directory>/<step>. It holds `params` and `optimizer` (Orbax; separate, so that
parameters can be loaded alone), cursor.json, meta.json, MANIFEST.json, and VERIFIED, written last.
A step without VERIFIED is unfinished and is ignored, unless no other step is left. If a restore
finds damage, it renames VERIFIED to CORRUPT.
"""

import concurrent.futures
import json
import os
import time
from collections.abc import Collection, Mapping
from types import TracebackType
from typing import Any, Literal, Self

import jax

from palmscale.checkpoint import commit, digest
from palmscale.checkpoint.lease import Lease
from palmscale.checkpoint.malloc import return_large_buffers
from palmscale.checkpoint.policy import KeepPolicy, Retries, steps_to_delete
from palmscale.checkpoint.reader import OPTIMIZER, PARAMS, CheckpointReader, Snapshot
from palmscale.checkpoint.steps import CURSOR, META
from palmscale.checkpoint.summary import summarize
from palmscale.cluster.agree import Peers
from palmscale.cluster.jointly import ALONE, led
from palmscale.errors import CorruptionError, HostLost, NotSaved
from palmscale.observe import log
from palmscale.storage.objects import ObjectPath

_LAST_SAVE_TRIES = 5  # within half a minute: whoever asks a job to end does not wait much longer
_PATIENCE_SECONDS = 5.0  # for a save in progress when the job ends with an error


class CheckpointStore(CheckpointReader):
    """The checkpoints in `directory`, written by the holder of `lease` and readable by anyone.

    At most one save is in progress at a time. With a lease, opening the store removes what killed
    saves left behind. All processes (`peers`) save together: each digests the files that it wrote,
    and process 0 merges the digests; only process 0 marks and deletes steps. A save fails on all
    processes or on none.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | ObjectPath,
        *,
        keep: KeepPolicy = KeepPolicy(),
        lease: Lease | None = None,
        retries: Retries = Retries(),
        peers: Peers = ALONE,
        timeout_seconds: float = 3600.0,
    ) -> None:
        self._leads = lease is not None and peers.index == 0
        super().__init__(
            directory,
            keep=keep,
            marks_damage=self._leads,
            peers=peers,
            timeout_seconds=timeout_seconds,
        )
        self._lease = lease
        self._retries = retries
        self._failures = 0
        self._last_try = time.monotonic()
        self._protected: frozenset[int] = frozenset()
        self._time_base = time.time(), time.monotonic()
        self._saver = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: tuple[int, concurrent.futures.Future[None]] | None = None
        if lease is not None:
            return_large_buffers()
        if self._leads:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._folders.remove_temporaries("*")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self._give_up()

    def close(self) -> None:
        """Waits for the save in progress.

        Raises:
            NotSaved: the save failed.
        """
        try:
            self.wait()
        finally:
            self._saver.shutdown()

    def _give_up(self) -> None:
        """Closes while another error, the one to report, is propagating."""
        if self._pending is not None:
            # Another process may be gone; waiting for it here would hide the cause.
            patience = None if self.peers.count == 1 else _PATIENCE_SECONDS
            concurrent.futures.wait([self._pending[1]], patience)
            if self._pending[1].done():
                try:
                    self.wait()
                except NotSaved as error:
                    log.warn(str(error))
        self._saver.shutdown(wait=False)

    # Saving.

    def save(self, step: int, **state: Any) -> None:
        """Starts saving `step` and returns once the arrays may be donated.

        Waits for an earlier save that is still in progress. If this save or the earlier one fails,
        a warning is logged and the run continues. An existing step is replaced, unless it is
        verified and holds the same arrays and cursor. All processes must call this.

        Args:
            step: number of steps done.
            **state: `params` and `optimizer_state`, trees of arrays; `cursor` and `meta`, JSON
                values; and `metrics`, numbers by name.

        Raises:
            NotSaved: more consecutive saves have failed than the retries allow.
        """
        self._finish_pending()
        if (message := self._start(step, **state)) is not None:
            self._fail(message)

    def save_last(self, step: int, **state: Any) -> None:
        """Saves `step` like `save`, and returns once it is verified on the storage.

        If that fails, it is tried again after 1, 2, 4, ... seconds, five times or as often as the
        retries allow. All processes must call this.

        Raises:
            NotSaved: it failed each time; the message names the last good step.
        """
        if (earlier := self._outcome()) is not None and self._leads:
            log.warn(f"{earlier}; {self._last_good()}.")
        tries = min(self._retries.failures, _LAST_SAVE_TRIES)
        pauses = [min(2.0**n, self._retries.wait_seconds) for n in range(tries)]
        for pause in [*pauses, None]:
            message = self._start(step, **state) or self._outcome() or self._unlisted(step)
            if message is None:
                return
            if pause is None:
                raise NotSaved(f"{message}; {self._last_good()}")
            if self._leads:
                log.warn(f"{message}; trying again in {pause:g} s.")
            time.sleep(pause)

    def _unlisted(self, step: int) -> str | None:
        """Returns an error message unless the storage now lists `step` as verified."""
        try:
            listed_now = led(
                self.peers,
                "last save",
                lambda: step in self.verified_steps(),
                self.timeout_seconds,
            )
        except HostLost:
            raise
        except (OSError, RuntimeError) as error:
            return _not_saved(step, error)
        return None if listed_now else _not_saved(step, "the storage does not list it")

    def _start(
        self,
        step: int,
        *,
        params: Any,
        optimizer_state: Any,
        cursor: Mapping[str, Any],
        meta: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> str | None:
        """Starts a save; returns an error message if that failed already."""
        if self._lease is None:
            raise RuntimeError("this checkpoint store was opened without a lease, for reading only")
        self._check_peers()
        self._last_try = time.monotonic()
        texts = {CURSOR: json.dumps(dict(cursor), indent=1), META: json.dumps(dict(meta), indent=1)}
        items = {PARAMS: params, OPTIMIZER: optimizer_state}
        manifest = {
            "step": step,
            "time": time.time(),
            "run_time": self._run_time(),
            "metrics": dict(metrics or {}),
            "arrays": {name: summarize(tree) for name, tree in items.items()},
        }
        num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(items))
        try:
            is_there = led(
                self.peers,
                "start of a save",
                lambda: self._prepare(step, manifest["arrays"], texts[CURSOR], num_bytes),
                self.timeout_seconds,
            )
        except HostLost:
            raise
        except (OSError, RuntimeError) as error:
            return _not_saved(step, error)
        if not is_there:
            response = commit.start(self._folders.path(step), items)
            self._pending = step, self._saver.submit(self._finish, step, response, texts, manifest)
        return None

    def _run_time(self) -> float:
        """Returns the time by which steps are kept; see `StepInfo.run_time`."""
        then, at = self._time_base
        return then + time.monotonic() - at

    def poll(self) -> None:
        """Logs a warning if a finished save failed; see `save`. Does not wait."""
        if self._pending is not None and self._pending[1].done():
            self._finish_pending()

    def wait(self) -> None:
        """Waits until the last save is verified.

        Raises:
            NotSaved: the save failed; raised only once.
        """
        if (message := self._outcome()) is not None:
            self._failures += 1
            raise NotSaved(message)

    def is_save_due(self, every_seconds: float | None) -> bool:
        """Returns whether a save is due by time: `every_seconds` have passed, or a retry is due.

        Process 0's clock decides for all processes, which must call this at the same steps.
        """

        def is_due() -> bool:
            waited = time.monotonic() - self._last_try
            is_retry = self._failures > 0 and waited >= self._retries.wait_seconds
            return is_retry or (every_seconds is not None and waited >= every_seconds)

        return led(self.peers, "clock of the saves", is_due, self.timeout_seconds)

    def protect(self, steps: Collection[int]) -> None:
        """Sets the steps that the keep policy must not delete, such as a rewind target."""
        self._protected = frozenset(steps)

    def discard_newer(self, step: int) -> None:
        """Deletes every step after `step`, which a rewind has made obsolete.

        Pinned steps are moved to `set_aside`.
        """
        self._finish_pending()
        if self._leads:
            for newer in self._folders.steps():
                if newer > step:
                    self._delete(newer)

    def _outcome(self) -> str | None:
        """Waits for the save in progress; returns an error message, or None if it succeeded."""
        pending, self._pending = self._pending, None
        if pending is None:
            return None
        step, future = pending
        try:
            future.result()
        except HostLost:
            raise
        except Exception as error:
            return _not_saved(step, error)
        self._failures = 0
        return None

    def _finish_pending(self) -> None:
        if (message := self._outcome()) is not None:
            self._fail(message)

    def _fail(self, message: str) -> None:
        self._failures += 1
        rest = self._last_good()
        if self._failures > self._retries.failures:
            raise NotSaved(
                f"{message}; {rest}. {self._failures} consecutive save(s) failed, more than"
                f" Retries.failures={self._retries.failures} allows. Fix the storage and restart:"
                " the run resumes from the last good checkpoint"
            )
        if self.peers.index == 0:
            log.warn(f"{message}; {rest}. The run continues and will save again.")

    def _last_good(self) -> str:
        try:
            good = self.latest_verified()
        except OSError:  # The failing storage may be unreadable as well.
            return "earlier checkpoints cannot be listed at the moment"
        if good is not None:
            return f"the last good checkpoint is step {good}"
        if not self.directory.is_dir():
            return f"{self.directory} is gone"
        return "there is no earlier one"

    def _prepare(self, step: int, stored: Mapping[str, Any], cursor: str, num_bytes: int) -> bool:
        """Returns whether the step is already saved; if not, makes room for it."""
        self._lease.check()
        if self._holds(step, stored, cursor):
            return True
        if self._folders.state(step) != "verified":
            self._delete(step)
        # Check before deleting a good step that is to be replaced: without room, it stays.
        self._folders.check_room(num_bytes)
        self._delete(step)
        return False

    def _delete(self, step: int) -> None:
        kind = "pinned checkpoint of step" if self._folders.is_pinned(step) else "stray folder"
        if (kept := self._folders.delete(step)) is not None:
            log.warn(f"the {kind} {step} was moved to {kept}.")

    def _finish(
        self, step: int, response: Any, texts: Mapping[str, str], manifest: Mapping[str, Any]
    ) -> None:
        """Ends a save after Orbax's commit; runs in the saver thread."""
        commit.commit(
            self._folders,
            step,
            response,
            texts,
            manifest,
            lease=self._lease,
            peers=self.peers,
            timeout_seconds=self.timeout_seconds,
        )
        if self._leads:
            try:
                self._apply_policy()
            except OSError as error:  # The step itself is saved.
                log.warn(f"older checkpoints were not deleted: {error}")

    def restore(
        self,
        step: int | Literal["best"] | None = None,
        *,
        abstract_params: Any,
        abstract_optimizer_state: Any = None,
    ) -> Snapshot | None:
        """Waits for the save in progress and then restores; see `CheckpointReader.restore`."""
        self._finish_pending()
        snapshot = super().restore(
            step,
            abstract_params=abstract_params,
            abstract_optimizer_state=abstract_optimizer_state,
        )
        if snapshot is not None and self._leads:
            self._time_base = self._folders.info(snapshot.step).run_time, time.monotonic()
        return snapshot

    def _apply_policy(self) -> None:
        infos = self.steps()
        verified = [info.step for info in infos if info.verified]
        doomed = steps_to_delete(
            self._keep,
            steps=verified,
            metrics={info.step: info.metrics for info in infos if info.verified},
            times={info.step: info.run_time for info in infos if info.verified},
            protected=self._protected | {info.step for info in infos if info.pinned},
        )
        newest = max(verified, default=0)
        leftovers = [info.step for info in infos if not info.verified and info.step < newest]
        for step in [*doomed, *leftovers]:
            self._folders.delete(step)

    def _holds(self, step: int, stored: Mapping[str, Any], cursor: str) -> bool:
        if self._folders.state(step) != "verified":
            return False
        try:
            manifest = digest.read_manifest(self._folders.path(step))
            stored_cursor = (self._folders.path(step) / CURSOR).read_text()
        except (CorruptionError, OSError):
            return False
        return manifest["arrays"] == stored and stored_cursor == cursor


def _not_saved(step: int, error: BaseException | str) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"the checkpoint of step {step} was not saved: {lines[0]}"
