"""The folders of saved steps: listing them, their states, and deleting them."""

import contextlib
import dataclasses
import itertools
from typing import Any, Literal

from palmscale.checkpoint import digest
from palmscale.checkpoint.folders import folders_of
from palmscale.errors import CorruptionError
from palmscale.observe.reporting import current_names
from palmscale.storage.inside import inside
from palmscale.storage.place import Place
from palmscale.storage.typed_json import parse

CURSOR, META, CORRUPT, PINNED = "cursor.json", "meta.json", "CORRUPT", "PINNED"
# Where a pinned step is moved if a new save needs its number or a rewind discards it.
SET_ASIDE = "set_aside"

# `unmarked`: it has a manifest, so it was finished, but neither VERIFIED nor CORRUPT.
State = Literal["verified", "unfinished", "unmarked", "corrupt"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepInfo:
    """A saved step.

    Attributes:
        step: its number.
        state: see `State`.
        bytes: its size; 0 unless verified, as are the times and metrics.
        metrics: of the step.
        time: when it was saved by the host's clock, in seconds since the epoch.
        run_time: the same, except that only the run's start was read from the clock; later steps
            never have a smaller one, whatever the hosts' clocks say.
        pinned: whether it is kept until it is unpinned.
    """

    step: int
    state: State
    bytes: int
    metrics: dict[str, float]
    time: float
    run_time: float
    pinned: bool

    @property
    def verified(self) -> bool:
        """Whether the step can be restored."""
        return self.state == "verified"


@dataclasses.dataclass(frozen=True)
class StepFolders:
    """The folders <directory>/<step>; the directory may not exist yet.

    A folder whose name is not that of the step in it, such as a copy or `0008`, is a `stray` one:
    it is never used, and never deleted.
    """

    directory: Place
    _own: set[int] = dataclasses.field(default_factory=set, compare=False)  # known not to be stray

    def path(self, step: int) -> Place:
        """Returns the folder of `step`, whether it exists or not."""
        return self.directory / str(step)

    def steps(self) -> list[int]:
        """Returns every step that has a folder of its own, oldest first."""
        names = [name for name in self._numbers() if self._stray(name) is None]
        return sorted(map(int, names))

    def strays(self) -> dict[str, str]:
        """Returns why each folder whose name is a number is not a step, by name."""
        found = {name: self._stray(name) for name in sorted(self._numbers())}
        return {name: why for name, why in found.items() if why is not None}

    def _numbers(self) -> list[str]:
        if not self.directory.is_dir():
            return []
        return [path.name for path in self.directory.iterdir() if path.name.isdecimal()]

    def _stray(self, name: str) -> str | None:
        step = int(name)
        if name != str(step):
            return f"the folder of step {step} is named {step}"
        if step not in self._own:
            path = self.path(step)
            if not (path / digest.MANIFEST).exists():
                return None
            with contextlib.suppress(CorruptionError):  # that is for a restore to find
                manifest = digest.read_manifest(path, None)
                saved = manifest.get("step", step) if isinstance(manifest, dict) else step
                if saved != step:
                    return f"it is a copy of step {saved}, by its {digest.MANIFEST}"
            self._own.add(step)
        return None

    def state(self, step: int) -> State:
        """Returns the state of the step, according to its marker file."""
        path = self.path(step)
        if (path / digest.VERIFIED).exists():
            return "verified"
        if (path / CORRUPT).exists():
            return "corrupt"
        return "unmarked" if (path / digest.MANIFEST).exists() else "unfinished"

    def mark_verified(self, step: int) -> list[str]:
        """Marks an unmarked step as verified, unless a file does not match its manifest.

        Returns a message for each damaged file.
        """
        found = digest.damages(self.path(step), None)
        if not found:
            digest.write_marker(self.path(step))
        return found

    def in_state(self, state: State) -> list[int]:
        """Returns the steps in `state`, oldest first."""
        return [step for step in self.steps() if self.state(step) == state]

    def info(self, step: int) -> StepInfo:
        """Returns the step's details from its manifest, without reading its arrays."""
        path, state, manifest = self.path(step), self.state(step), {}
        if state == "verified":
            try:
                manifest = digest.read_manifest(path)
            except CorruptionError:
                state = "corrupt"
        return StepInfo(
            step=step,
            state=state,
            metrics=current_names(manifest.get("metrics", {})),
            bytes=sum(file["bytes"] for file in manifest.get("files", {}).values()),
            time=manifest.get("time", 0.0),
            run_time=manifest.get("run_time", manifest.get("time", 0.0)),
            pinned=self.is_pinned(step),
        )

    def is_pinned(self, step: int) -> bool:
        """Returns whether the step is pinned."""
        return (self.path(step) / PINNED).exists()

    def pin(self, step: int) -> None:
        """Pins the step, which must exist, so that it is never deleted."""
        inside(self.path(step), PINNED).touch()

    def unpin(self, step: int) -> None:
        """Unpins the step, so that the keep policy applies to it again."""
        (self.path(step) / PINNED).unlink(missing_ok=True)

    def damages(self, step: int) -> list[str]:
        """Reads a finished step and returns a message for each damaged file."""
        markers = {"corrupt": CORRUPT, "unmarked": None}
        return digest.damages(self.path(step), markers.get(self.state(step), digest.VERIFIED))

    def read_json(self, step: int, name: str) -> dict[str, Any]:
        """Returns the content of a JSON file of the step, an object.

        Raises:
            CorruptionError: the file does not match its digest, or is no JSON object.
        """
        path = self.path(step)
        return parse(digest.read_checked(path, name), dict[str, Any], path / name)

    def mark_corrupt(self, step: int) -> None:
        """Marks the step as corrupt: it no longer counts as saved, and a new save replaces it."""
        if (self.path(step) / digest.VERIFIED).exists():
            folders_of(self.directory).mark(self.path(step), digest.VERIFIED, CORRUPT)

    def delete(self, step: int) -> Place | None:
        """Deletes the step's folder if it exists.

        Returns None, or for a pinned or stray one the path to which it was moved instead.
        """
        path = self.path(step)
        if self.is_pinned(step) or self._stray(str(step)) is not None:
            return self._set_aside(path)
        self._own.discard(step)
        folders_of(self.directory).remove(path, digest.VERIFIED)
        return None

    def _set_aside(self, path: Place) -> Place:
        folder = self.directory / SET_ASIDE
        folder.mkdir(exist_ok=True)
        names = (path.name if n == 0 else f"{path.name}-{n}" for n in itertools.count())
        free = next(folder / name for name in names if not (folder / name).exists())
        folders_of(self.directory).move(path, free, digest.VERIFIED)
        return free

    def check_room(self, num_bytes: int) -> None:
        """Raises OSError if the directory is not writable or has no room for `num_bytes`."""
        folders_of(self.directory).check_room(self.directory, num_bytes)

    def remove_temporaries(self, step_pattern: str) -> None:
        """Removes what killed or failed saves left behind, for steps that match the glob."""
        folders_of(self.directory).remove_temporaries(self.directory, step_pattern)
