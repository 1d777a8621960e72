"""TPU slices by name: `v4:12x16x16`, or as users order them, `v4-8192`, `v5p-256`, `v5e-256`.

A slice's dims follow from rules, not from a list. On a 3D torus (v4, v5p, TPU7x) chips come in
cubes of 4x4x4, so that from 64 chips on each dim is a multiple of 4, and every dim is a ring; below
that there are four shapes without rings. On a 2D torus (v5e, v6e) dims are powers of two with at
most a factor of two between them, and a dim is a ring at 16 alone.
"""

import dataclasses
import difflib
import math
import re
from typing import Any

import jax
from jax.experimental import topologies

from palmscale.errors import UserError
from palmscale.plan.hardware.chips import CHIPS, Chip

# Other names that the vendor uses.
_ALIASES = {"v5litepod": "v5e", "v5lite": "v5e", "v7x": "tpu7x", "v5": "v5p"}
_COUNTED_IN_CORES = ("v4", "v5p")
_BELOW_A_CUBE = ((1, 2, 2), (2, 2, 2), (2, 2, 4), (2, 4, 4))
_RING_FROM = {2: 16, 3: 4}
_NAME = re.compile(r"([a-z]\w*?)(?::([0-9]{1,6}(?:x[0-9]{1,6})+)|-([0-9]{1,6}))", re.ASCII)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
    """One slice, or several equal ones joined by the data-center network.

    Attributes:
        chip: the generation.
        dims: chips along each dim of the torus.
        slices: how many.
    """

    chip: Chip
    dims: tuple[int, ...]
    slices: int = 1

    @property
    def chips(self) -> int:
        """Chips of all slices."""
        return math.prod(self.dims) * self.slices

    @property
    def devices(self) -> int:
        """JAX devices of all slices."""
        return self.chips * self.chip.devices

    @property
    def hosts(self) -> int:
        """Hosts (VMs) of all slices."""
        return -(-math.prod(self.dims) // self.chip.host_chips) * self.slices

    @property
    def rings(self) -> tuple[bool, ...]:
        """For each dim, whether its ends are joined."""
        if self.chip.torus_dims == 3 and math.prod(self.dims) < 64:
            return (False,) * 3
        return tuple(size >= _RING_FROM[self.chip.torus_dims] for size in self.dims)

    def __str__(self) -> str:
        dims = f"{self.chip.name}:{'x'.join(map(str, self.dims))}"
        return dims if self.slices == 1 else f"{self.slices} x {dims}"

    def describe(self) -> list[jax.Device]:
        """Returns its devices as the compiler knows them; they need not exist.

        Raises:
            ImportError: libtpu is not installed.
            RuntimeError: libtpu does not know the topology.
        """
        host = (1, 1, 1) if math.prod(self.dims) == 1 else (2, 2, 1)
        options: dict[str, Any] = {
            "wrap": (*self.rings, False)[:3],
            "chips_per_host_bounds": host,
        }
        if self.chip.devices == 1:
            options["chip_config_name"] = "megacore" if self.chip.cores == 2 else "default"
        if self.slices > 1:
            options["num_slices"] = self.slices
        name = f"{self.chip.platform}:{'x'.join(map(str, self.dims))}"
        return topologies.get_topology_desc(topology_name=name, platform="tpu", **options).devices


def parse(name: str, slices: int = 1) -> Topology:
    """Returns the topology of a name: a generation and its dims, or a generation and a count.

    `v4-N` and `v5p-N` count TensorCores, two a chip; `v5e-N` and `v6e-N` count chips.

    Raises:
        UserError: no such generation, or no slice of it has these dims; names the nearest.
    """
    found = _NAME.fullmatch(name.strip().lower())
    generation = _ALIASES.get(found[1], found[1]) if found else ""
    if not found or generation not in CHIPS:
        near = difflib.get_close_matches(re.split("[-:]", name.lower())[0], CHIPS, n=1, cutoff=0.3)
        raise UserError(
            f"unknown topology {name!r}; expected one of {', '.join(CHIPS)} with its dims or its"
            f" size, for example {near[0] if near else 'v4'}:{_example(near)} or v5e-256."
        )
    if slices < 1:
        raise UserError(f"slices={slices} must be at least 1.")
    chip = CHIPS[generation]
    if found[2]:
        dims = tuple(map(int, found[2].split("x")))
        _check_dims(chip, dims, name)
        return Topology(chip=chip, dims=dims, slices=slices)
    return Topology(chip=chip, dims=_dims_of_size(chip, int(found[3]), name), slices=slices)


def _example(near: list[str]) -> str:
    return "16x16" if near and CHIPS[near[0]].torus_dims == 2 else "8x8x8"


def _check_dims(chip: Chip, dims: tuple[int, ...], name: str) -> None:
    if len(dims) != chip.torus_dims:
        raise UserError(
            f"topology {name!r} has {len(dims)} dims, but {chip.name} is a torus of"
            f" {chip.torus_dims}; write for example {chip.name}:{_example([chip.name])}."
        )
    if tuple(sorted(dims)) in _shapes(chip):
        return
    near = sorted(_shapes(chip), key=lambda shape: _distance(shape, tuple(sorted(dims))))[:3]
    raise UserError(
        f"no slice of {chip.name} has the dims {'x'.join(map(str, dims))}: {_rule(chip)}; the"
        f" nearest are {', '.join('x'.join(map(str, shape)) for shape in near)}."
    )


def _dims_of_size(chip: Chip, size: int, name: str) -> tuple[int, ...]:
    """Returns the shape nearest to a cube or square, as the vendor orders it by default."""
    per_chip = chip.cores if chip.name in _COUNTED_IN_CORES else 1
    fitting = [shape for shape in _shapes(chip) if math.prod(shape) * per_chip == size]
    if fitting:
        shape = min(fitting, key=lambda shape: (max(shape), sum(shape)))
        return (2, 2, 1) if shape == (1, 2, 2) else shape
    sizes = sorted({math.prod(shape) * per_chip for shape in _shapes(chip)})
    near = sorted(sorted(sizes, key=lambda known: abs(known - size))[:3])
    unit = "TensorCores" if per_chip > 1 else "chips"
    raise UserError(
        f"no slice {name!r}: {chip.name} has none of {size:,} {unit}; the nearest are"
        f" {', '.join(f'{chip.name}-{known}' for known in near)}."
    )


def _shapes(chip: Chip) -> list[tuple[int, ...]]:
    """Returns the dims of every slice of a generation, ascending within each."""
    if chip.torus_dims == 2:
        return [(a, a) for a in (1, 2, 4, 8, 16)] + [(a, 2 * a) for a in (2, 4, 8)]
    largest = chip.max_chips // 16
    cubes = [
        (a, b, c)
        for a in range(4, largest + 1, 4)
        for b in range(a, largest // (a // 4) + 1, 4)
        for c in range(b, chip.max_chips // (a * b) + 1, 4)
    ]
    return [*_BELOW_A_CUBE, *cubes]


def _rule(chip: Chip) -> str:
    if chip.torus_dims == 2:
        return "its dims are powers of two up to 16, equal or one twice the other"
    return f"from 64 chips on its dims are multiples of 4, of at most {chip.max_chips:,} chips"


def _distance(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    return sum(abs(math.log2(max(x, 1) / max(y, 1))) for x, y in zip(a, b))
