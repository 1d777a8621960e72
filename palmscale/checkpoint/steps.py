"""The folders of the steps on disk: which there are, in what state, and how one goes."""

import dataclasses
import itertools
import json
import shutil
from pathlib import Path
from typing import Any, Literal

from palmscale.checkpoint import digest
from palmscale.errors import CorruptionError

CURSOR, META, CORRUPT, PINNED = "cursor.json", "meta.json", "CORRUPT", "PINNED"
# Where a pinned step goes when its number is needed, or its course is given up.
SET_ASIDE = "set_aside"
# Orbax writes <step>.orbax-checkpoint-tmp and renames it; what is being removed bears the name too.
_TEMPORARY = ".orbax-checkpoint-tmp"

State = Literal["verified", "unfinished", "corrupt"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepInfo:
    """A step on disk; `bytes`, `metrics` and `time` (seconds since the epoch) if it is verified."""

    step: int
    state: State
    bytes: int
    metrics: dict[str, float]
    time: float
    pinned: bool

    @property
    def verified(self) -> bool:
        """Whether the step can be restored."""
        return self.state == "verified"


@dataclasses.dataclass(frozen=True)
class StepFolders:
    """The folders <directory>/<step>; the directory need not exist yet."""

    directory: Path

    def path(self, step: int) -> Path:
        """Returns the folder of `step`, whether it exists or not."""
        return self.directory / str(step)

    def steps(self) -> list[int]:
        """Returns every step that has a folder, oldest first."""
        if not self.directory.is_dir():
            return []
        return sorted(int(path.name) for path in self.directory.iterdir() if path.name.isdecimal())

    def state(self, step: int) -> State:
        """Returns what the step's marker file says."""
        path = self.path(step)
        if (path / digest.VERIFIED).exists():
            return "verified"
        return "corrupt" if (path / CORRUPT).exists() else "unfinished"

    def in_state(self, state: State) -> list[int]:
        """Returns the steps in `state`, oldest first."""
        return [step for step in self.steps() if self.state(step) == state]

    def info(self, step: int) -> StepInfo:
        """Returns what the step's manifest says, without reading its arrays."""
        path, state, manifest = self.path(step), self.state(step), {}
        if state == "verified":
            try:
                manifest = digest.read_manifest(path)
            except CorruptionError:
                state = "corrupt"
        return StepInfo(
            step=step,
            state=state,
            metrics=manifest.get("metrics", {}),
            bytes=sum(file["bytes"] for file in manifest.get("files", {}).values()),
            time=manifest.get("time", 0.0),
            pinned=self.is_pinned(step),
        )

    def is_pinned(self, step: int) -> bool:
        """Returns whether somebody asked to keep the step for good."""
        return (self.path(step) / PINNED).exists()

    def pin(self, step: int) -> None:
        """Keeps the step, which must exist, for good."""
        (self.path(step) / PINNED).touch()

    def unpin(self, step: int) -> None:
        """Leaves the step to the keep policy again."""
        (self.path(step) / PINNED).unlink(missing_ok=True)

    def damages(self, step: int) -> list[str]:
        """Returns what is wrong with each damaged file of a verified or corrupt step; reads all."""
        path = self.path(step)
        is_marked = not (path / digest.VERIFIED).exists() and (path / CORRUPT).exists()
        return digest.damages(path, CORRUPT if is_marked else digest.VERIFIED)

    def read_json(self, step: int, name: str) -> dict[str, Any]:
        """Returns a JSON file of the step. CorruptionError where it differs from its digest."""
        return json.loads(digest.read_checked(self.path(step), name))

    def mark_corrupt(self, step: int) -> None:
        """Makes the step one that does not count as kept, and that a new save replaces."""
        marker = self.path(step) / digest.VERIFIED
        if marker.exists():
            marker.rename(marker.with_name(CORRUPT))

    def delete(self, step: int) -> Path | None:
        """Removes the step's folder, if there is one; a pinned one goes to the path returned."""
        path = self.path(step)
        if self.is_pinned(step):
            return self._set_aside(path)
        if path.exists():
            # Renamed first, so that no kill leaves half a step behind that looks whole.
            doomed = path.with_name(f"{step}{_TEMPORARY}-removed")
            shutil.rmtree(doomed, ignore_errors=True)
            path.rename(doomed)
            shutil.rmtree(doomed)
        return None

    def _set_aside(self, path: Path) -> Path:
        folder = self.directory / SET_ASIDE
        folder.mkdir(exist_ok=True)
        names = (path.name if n == 0 else f"{path.name}-{n}" for n in itertools.count())
        free = next(folder / name for name in names if not (folder / name).exists())
        return path.rename(free)

    def check_room(self, num_bytes: int) -> None:
        """Raises OSError where nothing can be written, or so many bytes do not fit."""
        probe = self.directory / f"probe{_TEMPORARY}"
        try:
            probe.write_bytes(b"written to see whether it can be")
        finally:
            probe.unlink(missing_ok=True)
        free = shutil.disk_usage(self.directory).free
        if free < num_bytes:
            raise OSError(
                f"No space left: {self.directory} has {free:,} bytes free, and {num_bytes:,} are"
                " needed"
            )

    def remove_temporaries(self, step_pattern: str) -> None:
        """Removes what killed or failed saves left of the steps that match the glob."""
        for path in self.directory.glob(f"{step_pattern}{_TEMPORARY}*"):
            shutil.rmtree(path, ignore_errors=True)
