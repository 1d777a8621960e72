"""In which arrays two checkpoints differ, by what their manifests state; no array is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from palmscale.checkpoint import digest
from palmscale.checkpoint.reader import CheckpointReader


@dataclass(frozen=True)
class ArrayDifference:
    """One array that differs.

    Attributes:
        name: `params/…` or `optimizer/…`.
        what: `presence`, `dtype`, `shape` or `values`.
        values: what each of the two has: a dtype, a shape, or a fingerprint; None: no such array.
    """

    name: str
    what: str
    values: tuple[Any, Any]


def stored_arrays(reader: CheckpointReader, step: int) -> dict[str, dict[str, Any]]:
    """Returns {'shape', 'dtype', 'fingerprint'} of each array of a verified step, by its path."""
    manifest = digest.read_manifest(reader.directory / str(step))
    return {
        f"{item}/{name}": array
        for item, arrays in manifest.get("arrays", {}).items()
        for name, array in arrays.items()
    }


def array_differences(
    a: Mapping[str, Mapping[str, Any]], b: Mapping[str, Mapping[str, Any]]
) -> list[ArrayDifference]:
    """Returns the arrays of `stored_arrays` that differ, each with the first thing it differs in.

    Values are compared by the fingerprints that were taken when they were saved; where dtype or
    shape differ, they are not compared.
    """
    found = []
    for name in sorted(a.keys() | b.keys()):
        sides = (a.get(name), b.get(name))
        if None in sides:
            texts = [side and f"{side['dtype']}{side['shape']}" for side in sides]
            found.append(ArrayDifference(name, "presence", (texts[0], texts[1])))
            continue
        for field in ("dtype", "shape", "fingerprint"):
            values = (a[name][field], b[name][field])
            if values[0] != values[1]:
                what = "values" if field == "fingerprint" else field
                found.append(ArrayDifference(name, what, values))
                break
    return found
