"""The checkpoints of a run as anybody may read them: which there are, and what a step holds."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar

import jax

from palmscale.checkpoint import digest
from palmscale.checkpoint.arrays import load_arrays
from palmscale.checkpoint.describe import differences, listed, shapes
from palmscale.checkpoint.fingerprint import fingerprint, named_leaves, nested
from palmscale.checkpoint.policy import KeepPolicy, ranked_by_metric
from palmscale.checkpoint.steps import CORRUPT, CURSOR, META, StepFolders, StepInfo
from palmscale.checkpoint.together import ALONE, jointly, led
from palmscale.cluster.agree import Peers
from palmscale.errors import CorruptionError, UserError
from palmscale.observe import log
from palmscale.storage.objects import ObjectPath
from palmscale.storage.place import place

PARAMS, OPTIMIZER = "params", "optimizer"
_Read = TypeVar("_Read")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A restored step; `optimizer_state` is None where only the parameters were asked for."""

    step: int
    params: Any
    optimizer_state: Any
    cursor: dict[str, Any]
    meta: dict[str, Any]


class CheckpointReader:
    """The checkpoints in `directory`, which need not exist.

    With `marks_damage`, a step that a restore finds damaged is marked, and not tried again. Several
    processes, the `peers`, restore the same step: process 0 chooses, each checks its share of the
    files, and the damage that one finds makes all fall back. They wait `timeout_seconds` for one
    another.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | ObjectPath,
        *,
        keep: KeepPolicy = KeepPolicy(),
        marks_damage: bool = False,
        peers: Peers = ALONE,
        timeout_seconds: float = 3600.0,
    ) -> None:
        # Orbax takes absolute paths only.
        self.directory = place(directory).absolute()
        self._folders = StepFolders(self.directory)
        self._keep = keep
        self._marks_damage = marks_damage
        self._peers = peers
        self._timeout_seconds = timeout_seconds

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

        None where nothing was saved. CorruptionError where it is damaged. All processes call it.
        """
        return led(self._peers, "meta", lambda: self._read_meta(step), self._timeout_seconds)

    def _read_meta(self, step: int | None) -> dict[str, Any] | None:
        for candidate, is_last in _with_last(self._candidates(step)):
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
        All processes call it.
        """
        return self._first_good(
            step, lambda at: self._restore(at, abstract_params, abstract_optimizer_state)
        )

    def restore_some(
        self,
        step: int | Literal["best"] | None,
        choose: Callable[[Mapping[str, Any]], Mapping[str, jax.ShapeDtypeStruct]],
    ) -> tuple[int, dict[str, Any]] | None:
        """A step, and those of its parameters that `choose` asks for; both as `restore` has them.

        `choose` takes what is stored, {'shape', 'dtype', ...} by path, and returns abstract arrays
        of the same shapes and dtypes, by path. The answer is by path, too.
        """

        def load(at: int) -> tuple[int, dict[str, Any]]:
            manifest, _ = self._checked(at)
            wanted = nested(choose(manifest["arrays"][PARAMS]))
            loaded = self._loaded(at, manifest, {PARAMS: wanted}, in_part=True)
            return at, named_leaves(loaded[PARAMS])

        return self._first_good(step, load)

    def _first_good(
        self, step: int | Literal["best"] | None, read: Callable[[int], _Read]
    ) -> _Read | None:
        """What `read` returns of the first step that is not damaged; None without any step."""
        self._check_peers()
        candidates = led(
            self._peers, "choice of a step", lambda: self._candidates(step), self._timeout_seconds
        )
        for candidate, is_last in _with_last(candidates):
            try:
                return read(candidate)
            except CorruptionError as error:
                if self._marks_damage:
                    self._folders.mark_corrupt(candidate)
                if is_last:
                    raise
                if self._peers.index == 0:
                    log.warn(f"the checkpoint of step {candidate} is not used: {error}")
        return None

    def _restore(self, step: int, params: Any, optimizer_state: Any) -> Snapshot:
        wanted = {PARAMS: params}
        if optimizer_state is not None:
            wanted[OPTIMIZER] = optimizer_state
        manifest, texts = self._checked(step)
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
        trees = self._loaded(step, manifest, wanted)
        return Snapshot(
            step=step,
            params=trees[PARAMS],
            optimizer_state=trees.get(OPTIMIZER),
            cursor=texts[CURSOR],
            meta=texts[META],
        )

    def _loaded(
        self, step: int, manifest: Mapping[str, Any], wanted: dict[str, Any], in_part: bool = False
    ) -> dict[str, Any]:
        """The trees of abstract arrays as arrays that have the fingerprints of the saved ones."""
        path = self._folders.path(step)
        loaded = load_arrays(path, wanted, in_part=in_part)
        for item, tree in loaded.items():
            stored = manifest["arrays"][item]
            for name, found in fingerprint(tree).items():
                if found != stored[name]["fingerprint"]:
                    raise CorruptionError(f"{path / item}: the array {name} is not the one saved.")
        return wanted | loaded

    def _checked(self, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns the manifest of a step whose every file is whole, and its JSON files."""
        peers, path = self._peers, self._folders.path(step)
        manifest: dict[str, Any] = {}

        def check() -> None:
            manifest.update(
                digest.check(path, process_index=peers.index, process_count=peers.count)
            )

        def read(_: list[Any]) -> dict[str, Any]:
            return {name: self._folders.read_json(step, name) for name in (CURSOR, META)}

        texts = jointly(peers, "check of a step", check, read, self._timeout_seconds)
        return manifest, texts

    def _check_peers(self) -> None:
        if self._peers.count != jax.process_count():
            raise RuntimeError(
                f"this checkpoint store knows of {self._peers.count} process(es) and JAX of"
                f" {jax.process_count()} - they must act together - give it the job's peers"
            )

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
