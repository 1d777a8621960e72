"""Checks that the replicas of an array on several devices are equal, bit for bit.

Nothing else would detect a difference: a sum over devices gives the same result on every host, even
if it is wrong. Each device computes the fingerprint of its own replica, without collectives, which
would hide the difference.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from palmscale.checkpoint.fingerprint import fingerprint
from palmscale.trees import named_leaves

# Takes this process's text and a function of all processes' texts; returns process 0's result.
Decide = Callable[[str, Callable[[list[str]], str]], str]


def first_difference(tree: Any, decide: Decide) -> str | None:
    """Returns a message that names the first array whose replicas differ, and the devices.

    Returns None if all replicas are equal. All processes must call this, and they get the same
    result. Arrays without replicas cost nothing.
    """
    return decide(json.dumps(_copies(tree)), _compare) or None


def _compare(texts: list[str]) -> str:
    seen: dict[tuple[str, str], tuple[str, str]] = {}
    for text in texts:
        for name, pieces in json.loads(text).items():
            for piece, device, number in pieces:
                other, expected = seen.setdefault((name, piece), (device, number))
                if number != expected:
                    return f"{name}{piece} differs between {other} and {device}"
    return ""


def _copies(tree: Any) -> Mapping[str, list[tuple[str, str, str]]]:
    found: dict[str, list[tuple[str, str, str]]] = {}
    for name, array in named_leaves(tree).items():
        indices = array.sharding.devices_indices_map(array.shape)
        if len({str(index) for index in indices.values()}) == len(indices):
            continue
        for shard in array.addressable_shards:
            number = _number(shard.data) if shard.data.size else ""
            device = f"process {shard.device.process_index}'s {shard.device}"
            found.setdefault(name, []).append((_span(shard.index), device, number))
    return found


def _number(piece: jax.Array) -> str:
    # On a one-device mesh, because the run's own mesh has other devices.
    with jax.set_mesh(Mesh(np.empty((), object), ())):
        return next(iter(fingerprint(piece).values()))


def _span(index: tuple[slice, ...]) -> str:
    spans = [f"{s.start or 0}:{'' if s.stop is None else s.stop}" for s in index]
    return f"[{', '.join(spans)}]" if spans else ""
