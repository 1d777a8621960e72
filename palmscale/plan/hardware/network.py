"""How long a collective takes on the torus, and over the data-center network between slices.

Bandwidth only, from the vendor's figures, and one microsecond for each hop; the method is in
docs/planning.md. A group that fills whole rings uses both directions of each; a permutation
uses the links that it passes, one way.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import numpy as np

from palmscale.plan.hardware.topology import Topology
from palmscale.plan.program.host_copies import FROM_HOST, TO_HOST

# "How to Scale Your Model" (Google DeepMind, 2025), chapter on TPUs; PCIe, one way.
HOP_SECONDS = 1e-6
HOST_BYTES_PER_SECOND = 15e9
NETWORK = "network"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Path:
    """The links between the members of a group.

    Attributes:
        size: members.
        extents: members along each torus dim.
        rings: whether each dim's members are a full ring; False too where there is one.
        slices: over how many slices the group goes.
        bytes_per_second: that one chip sends or receives over the torus; 0 where it does not.
        hops: the longest way on the torus.
        lanes: the links that it occupies: a dim of the torus in one direction (`0+`, `0-`), the
            network between slices, or a chip's link to its host in one direction.
    """

    size: int
    extents: tuple[int, ...]
    rings: tuple[bool, ...]
    slices: int
    bytes_per_second: float
    hops: int
    lanes: frozenset[str]


class Network:
    """The devices of a mesh, in its order, on their torus."""

    def __init__(self, topology: Topology, devices: Sequence[jax.Device]) -> None:
        self.topology = topology
        self._coords = np.array([d.coords[: topology.chip.torus_dims] for d in devices])
        self._slices = np.array([getattr(d, "slice_index", 0) or 0 for d in devices])
        self._paths: dict[bytes, Path] = {}

    def across_slices(self) -> np.ndarray:
        """Returns the groups of devices that have the same place in every slice."""
        return np.arange(len(self._slices)).reshape(self.topology.slices, -1).T

    def path(self, members: np.ndarray) -> Path:
        """Returns what joins the devices with these numbers in the mesh."""
        return self._kept(members, self._group)

    def way(self, pairs: np.ndarray) -> Path:
        """Returns what a permutation passes, of which `pairs` are all (source, target)."""
        return self._kept(pairs, self._permutation)

    def to_host(self, kind: str) -> Path:
        """Returns a chip's link to its host, for copies one way."""
        return Path(
            size=2,
            extents=(),
            rings=(),
            slices=1,
            bytes_per_second=HOST_BYTES_PER_SECOND,
            hops=0,
            lanes=frozenset({kind}),
        )

    def _kept(self, numbers: np.ndarray, find: Callable[[np.ndarray], Path]) -> Path:
        key = repr(numbers.shape).encode() + numbers.tobytes()
        if key not in self._paths:
            self._paths[key] = find(numbers)
        return self._paths[key]

    def _group(self, members: np.ndarray) -> Path:
        coords, slices = self._coords[members], self._slices[members]
        within = coords[slices == slices[0]]
        torus, rings = self.topology.dims, self.topology.rings
        extents, is_ring, links = [], [], 0.0
        for dim, size in enumerate(torus):
            places = np.unique(within[:, dim])
            extents.append(len(places))
            is_ring.append(len(places) > 1 and len(places) == size and rings[dim])
            if len(places) > 1:
                # Interleaved groups share the links.
                share = len(places) / _span(places, size, rings[dim])
                links += (2 if is_ring[-1] else 1) * share
        # A group that does not fill a box of the torus shares its links with those in the gaps.
        filled = len(np.unique(within, axis=0)) / math.prod(extents)
        hops = sum(n // 2 if ring else n - 1 for n, ring in zip(extents, is_ring))
        lanes = {f"{dim}{way}" for dim, extent in enumerate(extents) if extent > 1 for way in "+-"}
        return Path(
            size=len(members),
            extents=tuple(extents),
            rings=tuple(is_ring),
            slices=len(np.unique(slices)),
            bytes_per_second=links * filled * self.topology.chip.link_bytes_per_second,
            hops=hops,
            lanes=frozenset(lanes | ({NETWORK} if len(np.unique(slices)) > 1 else set())),
        )

    def _permutation(self, pairs: np.ndarray) -> Path:
        """Follows every pair, one dim after the other, and counts what passes each link."""
        source, target = self._coords[pairs[:, 0]], self._coords[pairs[:, 1]]
        a_slice = self._slices[pairs[:, 0]]
        busiest, hops, lanes = 0, 0, set()
        for dim, (size, ring) in enumerate(zip(self.topology.dims, self.topology.rings)):
            steps = target[:, dim] - source[:, dim]
            if ring:
                steps = (steps + size // 2) % size - size // 2
            hops += int(np.abs(steps).max())
            for sign, way in ((1, "+"), (-1, "-")):
                passed = np.zeros((self.topology.slices, *self.topology.dims), int)
                for step in range(int((sign * steps).max())):
                    going = sign * steps > step
                    place = source[going]
                    place[:, dim] = (place[:, dim] + sign * step) % size
                    np.add.at(passed, (a_slice[going], *place.T), 1)
                if passed.any():
                    lanes.add(f"{dim}{way}")
                    busiest = max(busiest, int(passed.max()))
            source[:, dim] = target[:, dim]
        one = self._group(pairs[0])
        between = np.any(a_slice != self._slices[pairs[:, 1]])
        return dataclasses.replace(
            one,
            size=len(np.unique(pairs[0])),
            slices=2 if between else 1,
            bytes_per_second=self.topology.chip.link_bytes_per_second / busiest if busiest else 0.0,
            hops=hops,
            lanes=frozenset(lanes | ({NETWORK} if between else set())),
        )

    def seconds(self, kind: str, path: Path, num_bytes: float) -> float:
        """Returns the time of one collective, alone on its links.

        Args:
            kind: HLO's name without `-start`, or `reduce-scatter` for XLA's fusion of one; or of
                a copy with the host.
            path: of its group.
            num_bytes: of the whole array: gathered, or before it is scattered.
        """
        chip = self.topology.chip
        if kind in _ONE_WAY:  # each device sends the whole of what it has, once
            rate = path.bytes_per_second or chip.hbm_bytes_per_second
            total = num_bytes / (chip.network_bytes_per_second if path.slices > 1 else rate)
            return total + path.hops * HOP_SECONDS
        inside = path.size // path.slices
        total = 0.0
        if inside > 1:
            share = num_bytes * (inside - 1) / inside
            # Two devices on one chip exchange data through its memory.
            rate = path.bytes_per_second or chip.hbm_bytes_per_second
            total += _PASSES.get(kind, 1.0) * share / rate + path.hops * HOP_SECONDS
        if path.slices > 1:
            # Between slices each chip sends what it holds after the slice's own part.
            part = num_bytes / inside * (path.slices - 1) / path.slices
            total += _PASSES.get(kind, 1.0) * part / chip.network_bytes_per_second
        return total


# How often an array passes the links. All-to-all on a ring: each byte goes a quarter of the way.
_PASSES = {"all-reduce": 2.0, "all-to-all": 0.25, "ragged-all-to-all": 0.25}
_ONE_WAY = ("collective-permute", TO_HOST, FROM_HOST)


def _span(places: np.ndarray, size: int, ring: bool) -> int:
    """Returns over how many places of a dim these reach, the shorter way round on a ring."""
    reach = int(places[-1] - places[0]) + 1
    if not ring:
        return reach
    gaps = np.diff(np.concatenate([places, [places[0] + size]]))
    return int(min(reach, size - gaps.max() + 1))


def describe_path(extents: tuple[int, ...], rings: tuple[bool, ...]) -> str:
    """Returns extents as a person reads them: `12 (ring) x 1 x 1`."""
    parts = [
        f"{extent}{' (ring)' if ring else ' (line)' if extent > 1 else ''}"
        for extent, ring in zip(extents, rings)
    ]
    return " x ".join(parts)
