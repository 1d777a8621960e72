"""Whole, verified, portable checkpoints: saved while training goes on, restored onto any mesh.

A step is the folder <directory>/<step>: `params` and `optimizer` (Orbax, apart so that parameters
load alone), cursor.json, meta.json, MANIFEST.json, and VERIFIED, written last. Without VERIFIED a
step is unfinished and is not used; CORRUPT takes its place where a restore found damage.
"""

import concurrent.futures
import dataclasses
import json
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from palmscale.checkpoint import digest
from palmscale.checkpoint.arrays import load_arrays, save_arrays
from palmscale.checkpoint.describe import described, differences, listed, shapes
from palmscale.checkpoint.fingerprint import fingerprint
from palmscale.checkpoint.lease import Lease
from palmscale.checkpoint.policy import KeepPolicy, ranked_by_metric, steps_to_delete
from palmscale.checkpoint.steps import CORRUPT, CURSOR, META, StepFolders, StepInfo
from palmscale.checkpoint.together import check_step, finish_step
from palmscale.cluster.agree import Peers
from palmscale.errors import CorruptionError, UserError
from palmscale.observe import log

PARAMS, OPTIMIZER = "params", "optimizer"
_MOST_FAILURES = 5  # saves on end that may fail before the run does


@dataclasses.dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A restored step; `optimizer_state` is None where only the parameters were asked for."""

    step: int
    params: Any
    optimizer_state: Any
    cursor: dict[str, Any]
    meta: dict[str, Any]


class CheckpointStore:
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
        # Orbax takes absolute paths only.
        self.directory = Path(directory).absolute()
        self._folders = StepFolders(self.directory)
        self._keep = keep
        self._lease = lease
        self._peers = peers or Peers(["localhost"], index=0)
        self._timeout_seconds = timeout_seconds
        self._failures = 0
        self._protected: frozenset[int] = frozenset()
        self._saver = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: tuple[int, concurrent.futures.Future[None]] | None = None
        if lease is not None and self._peers.index == 0:
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

    # Reading.

    def steps(self) -> list[StepInfo]:
        """Every step on disk, oldest first. Reads the manifests, not the arrays."""
        return [self._folders.info(step) for step in self._folders.steps()]

    def verified_steps(self) -> list[int]:
        """Every verified step, oldest first."""
        return self._folders.in_state("verified")

    def latest_verified(self) -> int | None:
        """The newest verified step, or None."""
        return max(self._folders.in_state("verified"), default=None)

    def read_meta(self, step: int | None = None) -> dict[str, Any] | None:
        """The meta of `step`, by default of the newest verified step whose meta is undamaged.

        None where nothing was saved. CorruptionError where it is damaged.
        """
        for candidate, is_last in _with_last(self._agreed_candidates(step)):
            try:
                return self._folders.read_json(candidate, META)
            except CorruptionError:
                if is_last:
                    raise
        return None

    def restore(
        self,
        step: int | Literal["best"] | None = None,
        *,
        abstract_params: Any,
        abstract_optimizer_state: Any = None,
    ) -> Snapshot | None:
        """The newest, the best or the named step, in the shardings of the abstract arrays.

        Leaves are `jax.ShapeDtypeStruct`s with shardings, for any mesh. Without an abstract
        optimizer state its arrays are not read. All files of a step are checked all the same: a
        step is either good or not, and the same one for training, evaluating and generating.

        By default falls back past damaged steps, with a warning naming the file; a step asked for
        by number or as 'best' does not. None where nothing was saved yet. CorruptionError where no
        step is left, UserError where names, shapes or dtypes differ (nothing is ever cast).
        """
        self._finish_pending()
        for candidate, is_last in _with_last(self._agreed_candidates(step)):
            try:
                return self._restore(candidate, abstract_params, abstract_optimizer_state)
            except CorruptionError as error:
                if self._lease is not None and self._peers.index == 0:
                    self._folders.mark_corrupt(candidate)
                if is_last:
                    raise
                log.warn(f"the checkpoint of step {candidate} is not used: {error}")
        return None

    def _restore(self, step: int, params: Any, optimizer_state: Any) -> Snapshot:
        wanted = {PARAMS: params}
        if optimizer_state is not None:
            wanted[OPTIMIZER] = optimizer_state
        path = self._folders.path(step)
        manifest = check_step(self._peers, path, self._timeout_seconds)
        wrong = [
            line
            for item, tree in wanted.items()
            for line in differences(manifest["arrays"][item], shapes(tree))
        ]
        if wrong:
            raise UserError(
                f"the checkpoint of step {step} in {self.directory} does not fit the "
                f"model: {'; '.join(wrong)} - the same parameters, shapes and dtypes "
                "are needed - use the model and optimizer that it was saved with."
            )
        loaded = load_arrays(path, wanted)
        for item, tree in loaded.items():
            stored = manifest["arrays"][item]
            for name, found in fingerprint(tree).items():
                if found != stored[name]["fingerprint"]:
                    raise CorruptionError(f"{path / item}: the array {name} is not the one saved.")
        trees = wanted | loaded
        return Snapshot(
            step=step,
            params=trees[PARAMS],
            optimizer_state=trees.get(OPTIMIZER),
            cursor=self._folders.read_json(step, CURSOR),
            meta=self._folders.read_json(step, META),
        )

    def _agreed_candidates(self, step: int | Literal["best"] | None) -> list[int]:
        """The steps to try as process 0 sees them: another may see a folder sooner or later."""

        def choose(texts: list[str]) -> str:
            try:
                return json.dumps([self._candidates(step), "", ""])
            except UserError as error:
                return json.dumps([[], type(error).__name__, str(error)])

        steps, kind, message = json.loads(
            self._peers.decide("checkpoints there are", "", choose, self._timeout_seconds)
        )
        if kind:
            raise (CorruptionError if kind == "CorruptionError" else UserError)(message)
        return steps

    def _candidates(self, step: int | Literal["best"] | None) -> list[int]:
        """The steps to try in order: several only where falling back is allowed."""
        verified = self._folders.in_state("verified")
        if step is None:
            for unfinished in self._folders.in_state("unfinished"):
                log.say(f"the checkpoint of step {unfinished} was never finished; it is not used")
            corrupt = self._folders.in_state("corrupt")
            if corrupt and not verified:
                # Never start again from nothing where there was something.
                raise CorruptionError(
                    f"no usable checkpoint in {self.directory}: damaged are "
                    f"{listed(corrupt)} - a whole one is needed - put back a "
                    "copy, or choose another workdir to start anew."
                )
            return verified[::-1]
        if step == "best":
            metrics = {info.step: info.metrics for info in self.steps() if info.verified}
            ranked = ranked_by_metric(metrics, self._keep.best_metric)
            if not ranked:
                raise UserError(
                    f"no checkpoint in {self.directory} has {self._keep.best_metric} - "
                    "the best one needs it - name a step."
                )
            return ranked[:1]
        if self._folders.state(step) == "corrupt":
            raise CorruptionError(
                f"the checkpoint of step {step} in {self.directory} was found "
                "damaged before - a whole one is needed - name another step, or "
                f"repair it and rename its {CORRUPT} to {digest.VERIFIED}."
            )
        if step not in verified:
            raise UserError(
                f"no verified checkpoint of step {step} in {self.directory} - there "
                f"are {listed(verified) or 'none'} - name one of them."
            )
        return [step]


def _with_last(steps: list[int]) -> Iterable[tuple[int, bool]]:
    return [(step, index == len(steps) - 1) for index, step in enumerate(steps)]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
