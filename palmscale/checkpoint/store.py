"""Whole, verified, portable checkpoints: saved while training goes on, restored onto any mesh.

A step is the folder <directory>/<step>: `params` and `optimizer` (Orbax, apart so that parameters
load alone), cursor.json, meta.json, MANIFEST.json, and VERIFIED, written last. Without VERIFIED a
step is unfinished and is not used; CORRUPT takes its place where a restore found damage.
"""

import concurrent.futures
import json
import os
import time
from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import Any, Literal, Self

from palmscale.checkpoint import digest
from palmscale.checkpoint.arrays import save_arrays
from palmscale.checkpoint.describe import described
from palmscale.checkpoint.lease import Lease
from palmscale.checkpoint.policy import KeepPolicy, steps_to_delete
from palmscale.checkpoint.reader import OPTIMIZER, PARAMS, CheckpointReader, Snapshot
from palmscale.checkpoint.steps import CURSOR, META
from palmscale.checkpoint.together import finish_step
from palmscale.cluster.agree import Peers
from palmscale.errors import CorruptionError
from palmscale.observe import log

_MOST_FAILURES = 5  # saves on end that may fail before the run does


class CheckpointStore(CheckpointReader):
    """The checkpoints in `directory`, written by the holder of `lease`, read by anybody.

    At most one save is under way. With a lease, opening removes what killed saves left behind.
    With several processes all open it, with the same `peers`, and call the same methods in the same
    order; process 0 alone decides and deletes, and each digests its share of the files.
    `timeout_seconds` is for the slowest of them to have done so.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep: KeepPolicy = KeepPolicy(),
        lease: Lease | None = None,
        peers: Peers | None = None,
        timeout_seconds: float = 3600.0,
    ) -> None:
        self._leads = lease is not None and (peers is None or peers.index == 0)
        super().__init__(
            directory,
            keep=keep,
            marks_damage=self._leads,
            peers=peers,
            timeout_seconds=timeout_seconds,
        )
        self._lease = lease
        self._failures = 0
        self._protected: frozenset[int] = frozenset()
        self._saver = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: tuple[int, concurrent.futures.Future[None]] | None = None
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
        elif self._peers.count == 1:
            # The error in flight is the one to report.
            self._finish_pending()
            self._saver.shutdown()
        # Else another process may be gone, and a save under way would wait for it.

    def close(self) -> None:
        """Waits for the save under way; raises RuntimeError where it failed."""
        try:
            self.wait()
        finally:
            self._saver.shutdown()

    # Saving.

    def save(
        self,
        step: int,
        *,
        params: Any,
        optimizer_state: Any,
        cursor: Mapping[str, Any],
        meta: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Starts saving `step` and returns once the arrays may be donated.

        `cursor` and `meta` are JSON values. Waits for an earlier save that is still being written,
        and warns where it failed: the run lives on. A step that is there already is replaced,
        unless it is verified and holds the same arrays and cursor. All processes call it.
        """
        if self._lease is None:
            raise RuntimeError("this checkpoint store was opened without a lease, for reading only")
        self._finish_pending()
        texts = {CURSOR: json.dumps(dict(cursor), indent=1), META: json.dumps(dict(meta), indent=1)}
        arrays = {PARAMS: described(params), OPTIMIZER: described(optimizer_state)}
        if self._decides(f"save of step {step}", lambda: self._holds(step, arrays, texts[CURSOR])):
            return
        if self._peers.index == 0:
            self._folders.delete(step)
        items = {PARAMS: params, OPTIMIZER: optimizer_state}
        response = save_arrays(self._folders.path(step), items)
        manifest = {
            "step": step,
            "time": time.time(),
            "metrics": dict(metrics or {}),
            "arrays": arrays,
        }
        self._pending = step, self._saver.submit(self._verify, step, response, texts, manifest)

    def poll(self) -> None:
        """Warns where a save that has ended failed. Does not wait."""
        if self._pending is not None and self._pending[1].done():
            self._finish_pending()

    def wait(self) -> None:
        """Waits until the last save is verified; raises RuntimeError where it failed, once."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        step, future = pending
        try:
            future.result()
        except Exception as error:
            raise RuntimeError(
                f"the checkpoint of step {step} was not saved: {_first_line(error)}"
            ) from error

    def protect(self, steps: Collection[int]) -> None:
        """Names the steps that the keep policy must not delete, such as the target of a rewind."""
        self._protected = frozenset(steps)

    def discard_newer(self, step: int) -> None:
        """Deletes every later step: after a rewind they belong to a course that was given up."""
        self._finish_pending()
        if self._peers.index == 0:
            for newer in self._folders.steps():
                if newer > step:
                    self._folders.delete(newer)

    def _finish_pending(self) -> None:
        waits = self._pending is not None
        try:
            self.wait()
        except RuntimeError as error:
            self._failures += 1
            if self._failures >= _MOST_FAILURES:
                raise RuntimeError(f"{error}; so did the {_MOST_FAILURES - 1} before") from error
            log.warn(f"{error}; the run goes on, and saves again when it is time.")
        else:
            self._failures = 0 if waits else self._failures

    def _decides(self, key: str, what: Callable[[], bool]) -> bool:
        """Returns what process 0 finds, on all."""
        answer = self._peers.decide(key, "", lambda texts: str(what()), self._timeout_seconds)
        return answer == "True"

    def _verify(
        self, step: int, response: Any, texts: Mapping[str, str], manifest: Mapping[str, Any]
    ) -> None:
        """Runs in the saver's thread: after Orbax's commit, digests what was written, marks it."""
        path = self._folders.path(step)

        def committed() -> None:
            response.result()
            for name, text in texts.items() if self._peers.index == 0 else ():
                digest.write_durably(path / name, text.encode())

        try:
            finish_step(
                self._peers,
                path,
                committed=committed,
                extra=manifest,
                timeout_seconds=self._timeout_seconds,
            )
        except Exception:
            # On a full disk the remains would leave no room for the next save.
            if self._peers.index == 0:
                self._folders.delete(step)
                self._folders.remove_temporaries(f"{step}")
            raise
        if self._peers.index == 0:
            self._apply_policy()

    def restore(
        self,
        step: int | Literal["best"] | None = None,
        *,
        abstract_params: Any,
        abstract_optimizer_state: Any = None,
    ) -> Snapshot | None:
        """As `CheckpointReader.restore`, once the save under way has ended."""
        self._finish_pending()
        return super().restore(
            step,
            abstract_params=abstract_params,
            abstract_optimizer_state=abstract_optimizer_state,
        )

    def _apply_policy(self) -> None:
        infos = self.steps()
        verified = [info.step for info in infos if info.verified]
        metrics = {info.step: info.metrics for info in infos if info.verified}
        doomed = steps_to_delete(
            self._keep, steps=verified, metrics=metrics, protected=self._protected
        )
        leftovers = [info.step for info in infos if not info.verified and info.step < max(verified)]
        for step in [*doomed, *leftovers]:
            self._folders.delete(step)

    def _holds(self, step: int, arrays: Mapping[str, Any], cursor: str) -> bool:
        if self._folders.state(step) != "verified":
            return False
        try:
            manifest = digest.read_manifest(self._folders.path(step))
            stored_cursor = (self._folders.path(step) / CURSOR).read_text()
        except (CorruptionError, OSError):
            return False
        return manifest["arrays"] == arrays and stored_cursor == cursor


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
