"""What is done with the folder of a whole step, on a disk and in an object store.

Whatever moment a process is killed at, a step is either as it was or visibly not verified. On a
disk a rename sees to that. An object store has none: there the marker that makes a step count comes
last, and goes first.
"""

import shutil
from pathlib import Path
from typing import Protocol

from palmscale.storage.objects import ObjectPath
from palmscale.storage.place import Place

# Orbax writes <step>.orbax-checkpoint-tmp and renames it; what is being removed bears the name too.
_TEMPORARY = ".orbax-checkpoint-tmp"


class Folders(Protocol):
    """What is done with folders; `marker` is the file by which the folder's content counts."""

    def remove(self, folder: Place, marker: str) -> None:
        """Removes the folder, if there is one."""

    def move(self, folder: Place, to: Place, marker: str) -> None:
        """Moves the folder to `to`, where nothing is."""

    def mark(self, folder: Place, marker: str, other: str) -> None:
        """Gives the marker another name."""

    def check_room(self, folder: Place, num_bytes: int) -> None:
        """Raises OSError where nothing can be written, or so many bytes do not fit."""

    def remove_temporaries(self, folder: Place, pattern: str) -> None:
        """Removes what killed or failed saves left under names that begin with the glob."""


def folders_of(place: Place) -> Folders:
    """Returns what works on the folders of the storage that `place` is in."""
    return ObjectFolders() if isinstance(place, ObjectPath) else DiskFolders()


class DiskFolders:
    """Folders of a file system, with renames that are atomic; see `Folders`."""

    def remove(self, folder: Path, marker: str) -> None:
        if folder.exists():
            # Renamed first, so that no kill leaves half a step behind that looks whole.
            doomed = folder.with_name(f"{folder.name}{_TEMPORARY}-removed")
            shutil.rmtree(doomed, ignore_errors=True)
            folder.rename(doomed)
            shutil.rmtree(doomed)

    def move(self, folder: Path, to: Path, marker: str) -> None:
        folder.rename(to)

    def mark(self, folder: Path, marker: str, other: str) -> None:
        (folder / marker).rename(folder / other)

    def check_room(self, folder: Path, num_bytes: int) -> None:
        probe = folder / f"probe{_TEMPORARY}"
        try:
            probe.write_bytes(b"written to see whether it can be")
        finally:
            probe.unlink(missing_ok=True)
        free = shutil.disk_usage(folder).free
        if free < num_bytes:
            raise OSError(
                f"No space left: {folder} has {free:,} bytes free, and {num_bytes:,} are needed"
            )

    def remove_temporaries(self, folder: Path, pattern: str) -> None:
        for path in folder.glob(f"{pattern}{_TEMPORARY}*"):
            shutil.rmtree(path, ignore_errors=True)


class ObjectFolders:
    """Folders of an object store, where each object comes and goes alone; see `Folders`."""

    def remove(self, folder: ObjectPath, marker: str) -> None:
        # What a kill leaves is a step without its marker, which the keep policy removes.
        (folder / marker).unlink(missing_ok=True)
        folder.remove_tree()

    def move(self, folder: ObjectPath, to: ObjectPath, marker: str) -> None:
        names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
        for name in sorted(names, key=lambda name: name == marker):
            (folder / name).copy_to(to / name)
        self.remove(folder, marker)

    def mark(self, folder: ObjectPath, marker: str, other: str) -> None:
        (folder / marker).copy_to(folder / other)
        (folder / marker).unlink()

    def check_room(self, folder: ObjectPath, num_bytes: int) -> None:
        probe = folder / f"probe{_TEMPORARY}"
        probe.write_bytes(b"written to see whether it can be")
        probe.unlink()

    def remove_temporaries(self, folder: ObjectPath, pattern: str) -> None:
        """Nothing: Orbax writes to the step's own folder here, and `remove` leaves it unmarked."""
