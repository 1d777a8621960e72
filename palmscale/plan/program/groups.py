"""The devices that a collective joins: XLA's three notations for groups, as one array."""

import math
import re

import numpy as np

_IOTA = re.compile(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(
    r"mesh\[(?P<axes>[^\]]*)\](?:, device_ids=\(?(?P<ids>\[[\d,]+\](?:T\([\d,]+\))?|[^)]*)\)?)?"
    r" \{(?P<over>[^}]*)\}"
)
_AXIS = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")
_SIZE = re.compile(r"'([^']+)'=(\d+)")
_PAIRS = re.compile(r"source_target_pairs=(\{\{.*?\}\})")


def replica_groups(attributes: str, num_devices: int) -> np.ndarray | None:
    """Returns the device numbers of an instruction's groups, [groups, members]; None without.

    A device's number is its place in the mesh, rows first. The groups of a collective-permute are
    the pairs (source, target).

    Raises:
        ValueError: an unknown notation.
    """
    if pairs := _PAIRS.search(attributes):
        return _listed(pairs[1])
    at = attributes.find("replica_groups=")
    if at < 0:
        return None
    text = attributes[at + len("replica_groups=") :]
    if text.startswith("{}"):
        return np.arange(num_devices)[None]
    if text.startswith("{{"):
        return _listed(text[: text.index("}}") + 2])
    if iota := _IOTA.match(text):
        return _iota(iota[2], iota[3]).reshape(_ints(iota[1]))
    if mesh := _MESH.match(text):
        return _over_mesh(mesh["axes"], mesh["ids"], mesh["over"])
    raise ValueError(f"unknown notation of replica groups: {text[:120]}")


def _listed(text: str) -> np.ndarray:
    rows = [_ints(row) for row in re.findall(r"\{([\d,]+)\}", text)]
    return np.array(rows)


def _iota(dims: str, order: str | None) -> np.ndarray:
    shape = _ints(dims)
    ids = np.arange(math.prod(shape)).reshape(shape)
    return ids.transpose(_ints(order)) if order else ids


def _over_mesh(axes: str, ids: str | None, over: str) -> np.ndarray:
    """Groups along axes of a mesh, or along parts of them: 'a':(4)2 is 2 behind the first 4."""
    sizes = {name: int(size) for name, size in _SIZE.findall(axes)}
    shape, chosen = [], []
    parts = {name: (int(before), int(size)) for name, before, size in _AXIS.findall(over) if size}
    whole = {name for name, _, size in _AXIS.findall(over) if not size}
    for name, size in sizes.items():
        if name in parts:
            before, inside = parts[name]
            chosen.append(len(shape) + 1)
            shape += [before, inside, size // (before * inside)]
        else:
            if name in whole:
                chosen.append(len(shape))
            shape.append(size)
    order = re.match(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", ids or "")
    if order:
        devices = _iota(order[1], order[2])
    elif ids:
        devices = np.array(_ints(ids))
    else:
        devices = np.arange(math.prod(shape))
    grid = devices.reshape(shape)
    rest = [dim for dim in range(len(shape)) if dim not in chosen]
    members = math.prod(shape[dim] for dim in chosen)
    return grid.transpose([*rest, *chosen]).reshape(-1, members)


def _ints(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]
