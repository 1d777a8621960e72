"""Operations on the folder of a step, on a disk or in an object store.

If a process is killed during an operation, the step is either unchanged or not marked as verified.
On a disk, atomic renames ensure this. An object store has no rename, so the marker file is written
last and deleted first.
"""

import shutil
from pathlib import Path
from typing import Protocol

from palmscale.storage.objects import ObjectPath
from palmscale.storage.place import Place

# Orbax writes <step>.orbax-checkpoint-tmp and renames it. Folders being removed use this name too.
_TEMPORARY = ".orbax-checkpoint-tmp"


class Folders(Protocol):
    """Operations on folders. The file `marker` shows that a folder's content is complete."""

    def remove(self, folder: Place, marker: str) -> None:
        """Removes the folder if it exists."""

    def move(self, folder: Place, to: Place, marker: str) -> None:
        """Moves the folder to `to`, which must not exist."""

    def mark(self, folder: Place, marker: str, other: str) -> None:
        """Renames the marker file to `other`."""

    def check_room(self, folder: Place, num_bytes: int) -> None:
        """Raises OSError if the folder is not writable or has no room for `num_bytes`."""

    def remove_temporaries(self, folder: Place, pattern: str) -> None:
        """Removes what killed or failed saves left behind, for steps that match the glob."""


def folders_of(place: Place) -> Folders:
    """Returns the folder operations for the storage that holds `place`."""
    return ObjectFolders() if isinstance(place, ObjectPath) else DiskFolders()


class DiskFolders:
    """Folders on a file system with atomic renames; see `Folders`."""

    def remove(self, folder: Path, marker: str) -> None:
        if folder.exists():
            # Rename first, so that a kill never leaves a partial step that looks complete.
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
            probe.write_bytes(b"a write test")
        finally:
            probe.unlink(missing_ok=True)
        free = shutil.disk_usage(folder).free
        if free < num_bytes:
            raise OSError(
                f"No space left: {folder} has {free:,} bytes free; {num_bytes:,} are needed"
            )

    def remove_temporaries(self, folder: Path, pattern: str) -> None:
        for path in folder.glob(f"{pattern}{_TEMPORARY}*"):
            shutil.rmtree(path, ignore_errors=True)


class ObjectFolders:
    """Folders in an object store, where objects are created and deleted one by one.

    See `Folders`.
    """

    def remove(self, folder: ObjectPath, marker: str) -> None:
        # A kill leaves a step without its marker, which the keep policy removes later.
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
        probe.write_bytes(b"a write test")
        probe.unlink()

    def remove_temporaries(self, folder: ObjectPath, pattern: str) -> None:
        """Does nothing: here Orbax writes directly to the step's own folder, still unmarked."""
