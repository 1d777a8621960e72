"""Copies of one array on several devices: are they equal, bit for bit?

Nothing else notices when they are not: a sum over devices comes out alike on every host, wrong as
it is. Each device makes a number of its own copy; no collective could tell them apart.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from palmscale.checkpoint.fingerprint import fingerprint, named_leaves

# Takes this process's text, and what process 0 makes of all processes' texts; returns the latter.
Decide = Callable[[str, Callable[[list[str]], str]], str]


def first_difference(tree: Any, decide: Decide) -> str | None:
    """Returns in words which array's copies differ, and where they are; None: all are equal.

    All processes call it, and get the same answer. Arrays without copies cost nothing.
    """
    return decide(json.dumps(_copies(tree)), _compare) or None


def _compare(texts: list[str]) -> str:
    seen: dict[tuple[str, str], tuple[str, str]] = {}
    for text in texts:
        for name, pieces in json.loads(text).items():
            for piece, device, number in pieces:
                other, expected = seen.setdefault((name, piece), (device, number))
                if number != expected:
                    return f"{name}{piece} is not the same on {other} and on {device}"
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
    # Of one device: the run's mesh, which is entered, has others.
    with jax.set_mesh(Mesh(np.empty((), object), ())):
        return next(iter(fingerprint(piece).values()))


def _span(index: tuple[slice, ...]) -> str:
    spans = [f"{s.start or 0}:{'' if s.stop is None else s.stop}" for s in index]
    return f"[{', '.join(spans)}]" if spans else ""
