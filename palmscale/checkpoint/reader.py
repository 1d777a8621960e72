"""Read access to the checkpoints of a run: listing the steps and restoring one."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar

import jax

from palmscale.checkpoint import digest
from palmscale.checkpoint.array_parts import stored_tensors
from palmscale.checkpoint.arrays import load_arrays
from palmscale.checkpoint.fingerprint import fingerprint
from palmscale.checkpoint.manifest import check_room_for, stored_arrays
from palmscale.checkpoint.policy import KeepPolicy, ranked_by_metric
from palmscale.checkpoint.steps import CORRUPT, CURSOR, META, StepFolders, StepInfo
from palmscale.checkpoint.summary import listed, mismatches, shapes
from palmscale.cluster.agree import Peers
from palmscale.cluster.jointly import ALONE, jointly, led
from palmscale.errors import CorruptionError, UserError
from palmscale.observe import log
from palmscale.storage.objects import ObjectPath
from palmscale.storage.place import place
from palmscale.storage.tensor import Tensors
from palmscale.trees import named_leaves, nested

PARAMS, OPTIMIZER = "params", "optimizer"
Convert = Callable[[str, jax.Array], Any]
_Read = TypeVar("_Read")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A restored step; `optimizer_state` is None if only the parameters were requested."""

    step: int
    params: Any
    optimizer_state: Any
    cursor: dict[str, Any]
    meta: dict[str, Any]


class CheckpointReader:
    """The checkpoints in `directory`, which may not exist.

    With `marks_damage`, a restore that finds a damaged step marks it, and the step is not tried
    again. All processes (`peers`) restore the same step: process 0 chooses it, each process checks
    its share of the files, and if one finds damage, all fall back. They wait up to
    `timeout_seconds` for one another.
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
        # Orbax accepts only absolute paths.
        self.directory = place(directory).absolute()
        self._folders = StepFolders(self.directory)
        self._keep = keep
        self._marks_damage = marks_damage
        self.peers = peers
        self.timeout_seconds = timeout_seconds

    def steps(self) -> list[StepInfo]:
        """Returns every saved step, oldest first. Reads the manifests but not the arrays."""
        return [self._folders.info(step) for step in self._folders.steps()]

    def verified_steps(self) -> list[int]:
        """Returns every verified step, oldest first."""
        return self._folders.in_state("verified")

    def strays(self) -> dict[str, str]:
        """Returns why each folder whose name is a number is not a step, by name."""
        return self._folders.strays()

    def latest_verified(self) -> int | None:
        """Returns the newest verified step, or None."""
        return max(self._folders.in_state("verified"), default=None)

    def read_meta(self, step: int | None = None) -> dict[str, Any] | None:
        """Returns meta.json of `step`, by default of the newest step whose meta.json is intact.

        Returns None if nothing was saved. All processes must call this.

        Raises:
            CorruptionError: the file is damaged.
        """
        return led(self.peers, "meta", lambda: self._read_meta(step), self.timeout_seconds)

    def _read_meta(self, step: int | None) -> dict[str, Any] | None:
        for candidate, is_last in _with_last(self._candidates(step)):
            try:
                return self._folders.read_json(candidate, META)
            except CorruptionError:
                if is_last:
                    raise
        return None

    def params_digest(self, step: int) -> str:
        """Returns a digest of the parameters of a step, the same in every copy and on any mesh.

        That of quantized parameters is that of those they were made from. Any process may call it.

        Raises:
            CorruptionError: a file is damaged.
        """
        meta, path = self._folders.read_json(step, META), self._folders.path(step)
        if "digest" in meta:
            return str(meta["digest"])
        arrays = stored_arrays(digest.read_manifest(path), PARAMS, path)
        return hashlib.sha256(json.dumps(arrays, sort_keys=True).encode()).hexdigest()

    def restore(
        self,
        step: int | Literal["best"] | None = None,
        *,
        abstract_params: Any,
        abstract_optimizer_state: Any = None,
        convert: Convert | None = None,
    ) -> Snapshot | None:
        """Restores the newest, the best or a given step, in the shardings of the abstract arrays.

        The abstract leaves are `jax.ShapeDtypeStruct`s with shardings, for any mesh. Without an
        abstract optimizer state, its arrays are not loaded. All files of the step are verified
        either way, so that training, evaluation and generation agree on which steps are good.

        With `convert`, parameters are loaded one after another, and each is replaced by what it
        returns of the parameter's path and array, so that they never exist all at once.

        By default, damaged steps are skipped with a warning that names the file; a step requested
        by number or as 'best' is not replaced by another. Returns None if nothing was saved yet.
        All processes must call this.

        Raises:
            CorruptionError: no undamaged step is left.
            UserError: names, shapes or dtypes differ; nothing is ever cast.
        """
        return self._first_good(
            step, lambda at: self._restore(at, abstract_params, abstract_optimizer_state, convert)
        )

    def restore_some(
        self,
        step: int | Literal["best"] | None,
        choose: Callable[[Mapping[str, Any]], Mapping[str, jax.ShapeDtypeStruct]],
    ) -> tuple[int, dict[str, Any]] | None:
        """Returns a step and the parameters that `choose` selects, by path; see `restore`.

        `choose` takes the stored parameters, {'shape', 'dtype', ...} by path, and returns abstract
        arrays of the same shapes and dtypes, by path.
        """

        def load(at: int) -> tuple[int, dict[str, Any]]:
            manifest, _ = self._checked(at)
            stored = stored_arrays(manifest, PARAMS, self._folders.path(at))
            wanted = nested(choose(stored))
            loaded = self._loaded(at, manifest, {PARAMS: wanted}, partial=True)
            return at, named_leaves(loaded[PARAMS])

        return self._first_good(step, load)

    def params_in_parts(self, step: int) -> Tensors:
        """Returns the parameters of a verified step by path, which are read in parts.

        All files of the step are verified first, as by `restore`; the arrays' fingerprints are not.

        Raises:
            CorruptionError: the step is damaged.
        """
        manifest, _ = self._checked(step)
        folder = self._folders.path(step)
        return stored_tensors(folder / PARAMS, stored_arrays(manifest, PARAMS, folder))

    def _first_good(
        self, step: int | Literal["best"] | None, read: Callable[[int], _Read]
    ) -> _Read | None:
        """Returns `read` of the first step that is not damaged; None if there is no step."""
        self._check_peers()

        def choose() -> list[int]:
            found = self._candidates(step)
            if step is None:
                self._tell_ignored()
            return found

        candidates = led(self.peers, "choice of a step", choose, self.timeout_seconds)
        for candidate, is_last in _with_last(candidates):
            try:
                return read(candidate)
            except CorruptionError as error:
                if self._marks_damage:
                    self._folders.mark_corrupt(candidate)
                if is_last:
                    raise
                if self.peers.index == 0:
                    log.warn(f"the checkpoint of step {candidate} is not used: {error}")
        return None

    def _restore(
        self, step: int, params: Any, optimizer_state: Any, convert: Convert | None
    ) -> Snapshot:
        wanted = {PARAMS: params}
        if optimizer_state is not None:
            wanted[OPTIMIZER] = optimizer_state
        manifest, texts = self._checked(step)
        wrong = [
            line
            for item, tree in wanted.items()
            for line in mismatches(
                stored_arrays(manifest, item, self._folders.path(step)), shapes(tree)
            )
        ]
        if wrong:
            raise UserError(
                f"the checkpoint of step {step} in {self.directory} does not match the model:"
                f" {'; '.join(wrong)}; parameters, shapes and dtypes must be the same: use the"
                " model and optimizer that it was saved with."
            )
        if convert is not None:
            wanted[PARAMS] = {}
        trees = self._loaded(step, manifest, wanted)
        if convert is not None:
            trees[PARAMS] = self._converted(step, manifest, params, convert)
        return Snapshot(
            step=step,
            params=trees[PARAMS],
            optimizer_state=trees.get(OPTIMIZER),
            cursor=texts[CURSOR],
            meta=texts[META],
        )

    def _loaded(
        self, step: int, manifest: Mapping[str, Any], wanted: dict[str, Any], partial: bool = False
    ) -> dict[str, Any]:
        """Loads the trees of abstract arrays and verifies their fingerprints."""
        path = self._folders.path(step)
        for item, tree in wanted.items():
            check_room_for(tree, manifest, item, path)
        loaded = load_arrays(path, wanted, partial=partial)
        for item, tree in loaded.items():
            stored = stored_arrays(manifest, item, path)
            for name, found in fingerprint(tree).items():
                if found != stored[name]["fingerprint"]:
                    raise CorruptionError(
                        f"{path / item}: the array {name} was not restored exactly: its fingerprint"
                        " has changed."
                    )
        return wanted | loaded

    def _converted(
        self, step: int, manifest: Mapping[str, Any], params: Any, convert: Convert
    ) -> Any:
        """Loads the parameters one after another; see `restore`."""
        new = []
        for name, leaf in named_leaves(params).items():
            tree = {PARAMS: nested({name: leaf})}
            (loaded,) = jax.tree.leaves(self._loaded(step, manifest, tree, partial=True)[PARAMS])
            # Waits, so that the next one is loaded when this one is gone.
            new.append(jax.block_until_ready(convert(name, loaded)))
            del loaded
        return jax.tree.unflatten(jax.tree.structure(params), new)

    def _checked(self, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Verifies every file of a step; returns its manifest and its JSON files."""
        peers, path = self.peers, self._folders.path(step)
        manifest: dict[str, Any] = {}

        def check() -> None:
            manifest.update(
                digest.check(path, process_index=peers.index, process_count=peers.count)
            )

        def read(_: list[Any]) -> dict[str, Any]:
            return {name: self._folders.read_json(step, name) for name in (CURSOR, META)}

        texts = jointly(peers, "check of a step", check, read, self.timeout_seconds)
        return manifest, texts

    def _marked_again(self) -> list[int]:
        """Returns a step that only its marker was missing of; raises if checkpoints existed.

        A run never starts over silently where there was something.
        """
        lost, damaged = self._folders.in_state("unmarked"), self._folders.in_state("corrupt")
        if lost and not self._marks_damage:
            raise UserError(
                f"the checkpoints in {self.directory} have no {digest.VERIFIED} ({listed(lost)});"
                " resume the run with its training command, which checks and marks them."
            )
        for step in reversed(lost):
            if not self._folders.mark_verified(step):
                log.warn(
                    f"the checkpoint of step {step} had no {digest.VERIFIED}; all of its files"
                    f" match its {digest.MANIFEST}, and it counts again."
                )
                return [step]
        if damaged or lost:
            raise CorruptionError(
                f"all checkpoints in {self.directory} are damaged ({listed(damaged + lost)});"
                " restore one from a copy, or choose another workdir to start over."
            )
        if strays := self._folders.strays():
            told = ", ".join(f"{name}: {why}" for name, why in strays.items())
            raise UserError(
                f"no folder in {self.directory} is a checkpoint of the step it is named after"
                f" ({told}); rename one, or choose another workdir to start over."
            )
        return []

    def _tell_ignored(self) -> None:
        """Names the folders that a restore passes over."""
        for step in self._folders.steps():
            if self._folders.state(step) in ("unfinished", "unmarked"):
                log.say(
                    f"the checkpoint of step {step} was never finished, or has lost its"
                    f" {digest.VERIFIED}, and is ignored"
                )
        for name, why in self._folders.strays().items():
            log.warn(f"the folder {self.directory / name} is not used: {why}.")

    def _check_peers(self) -> None:
        if self.peers.count != jax.process_count():
            raise RuntimeError(
                f"this checkpoint store was given {self.peers.count} process(es) but JAX has"
                f" {jax.process_count()}; pass it the job's peers"
            )

    def _candidates(self, step: int | Literal["best"] | None) -> list[int]:
        """Returns the steps to try, in order: more than one only if fallback is allowed."""
        verified = self._folders.in_state("verified")
        if step is None:
            return (verified or self._marked_again())[::-1]
        if step == "best":
            metrics = {info.step: info.metrics for info in self.steps() if info.verified}
            ranked = ranked_by_metric(metrics, self._keep.best_metric)
            if not ranked:
                raise UserError(
                    f"no checkpoint in {self.directory} has {self._keep.best_metric}, which"
                    " 'best' requires; give a step number."
                )
            return ranked[:1]
        if self._folders.state(step) == "corrupt":
            raise CorruptionError(
                f"the checkpoint of step {step} in {self.directory} is marked as damaged; choose"
                f" another step, or repair it and rename its {CORRUPT} to {digest.VERIFIED}."
            )
        if step not in verified:
            stray = self._folders.strays().get(str(step))
            raise UserError(
                f"there is no verified checkpoint of step {step} in"
                f" {self.directory}{f' ({stray})' if stray else ''}; verified steps:"
                f" {listed(verified) or 'none'}."
            )
        return [step]


def _with_last(steps: list[int]) -> Iterable[tuple[int, bool]]:
    return [(step, index == len(steps) - 1) for index, step in enumerate(steps)]
