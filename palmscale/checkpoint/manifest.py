"""The form of MANIFEST.json, which states every file and every array of a step."""

import math
from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

import jax

from palmscale.errors import CorruptionError
from palmscale.storage.place import Place
from palmscale.storage.typed_json import Count, Seconds


class FileDigest(TypedDict):
    """Size in bytes and SHA-256 of a file."""

    bytes: Count
    sha256: str


class StoredArray(TypedDict):
    """One array; an empty one has no fingerprint."""

    shape: list[Count]
    dtype: str
    fingerprint: str | None


class Manifest(TypedDict):
    """What a manifest states.

    Attributes:
        files: by path, relative to the step's folder.
        step: its number.
        time: of the save, in seconds since the epoch.
        metrics: of the step, by name.
        arrays: by item (`params`, `optimizer`) and path.
    """

    files: dict[str, FileDigest]
    step: NotRequired[Count]
    time: NotRequired[Seconds]
    metrics: NotRequired[dict[str, float]]
    arrays: NotRequired[dict[str, dict[str, StoredArray]]]


def stored_arrays(manifest: Mapping[str, Any], item: str, folder: Place) -> dict[str, Any]:
    """Returns the arrays of an item of the step in `folder`, {'shape', 'dtype', ...} by path.

    Raises:
        CorruptionError: the manifest states none.
    """
    try:
        return manifest["arrays"][item]
    except KeyError:
        raise CorruptionError(
            f"{folder} states no arrays of {item}; use a checkpoint that has them."
        ) from None


def check_room_for(arrays: Any, manifest: Mapping[str, Any], item: str, folder: Place) -> None:
    """Checks that the files of an item can hold abstract arrays, before these take memory.

    Arrays are stored uncompressed, so a file that is smaller describes what it does not hold.

    Raises:
        CorruptionError: they cannot.
    """
    leaves = jax.tree.leaves(arrays)
    needed = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
    files = manifest["files"].items()
    held = sum(file["bytes"] for name, file in files if name.startswith(f"{item}/"))
    if needed > held:
        raise CorruptionError(
            f"{folder / item} has {held:,} bytes, but its arrays take {needed:,}; use an intact"
            " copy of the checkpoint."
        )
