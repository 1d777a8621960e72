"""TPU types: the names that `palmscale plan` and gcloud use, and the software of their VMs."""

from __future__ import annotations

import dataclasses
import math
import re

from tpu_pod.errors import Mistake

_ALIASES = {"v5e": "v5litepod", "v5lite": "v5litepod", "v5": "v5p"}
# https://cloud.google.com/tpu/docs/runtimes
_RUNTIMES = {
    "v2": "tpu-ubuntu2204-base",
    "v3": "tpu-ubuntu2204-base",
    "v4": "tpu-ubuntu2204-base",
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
_FLAT = ("v2", "v3", "v5litepod", "v6e")  # a 2D torus; the others are 3D
_ONE_SHAPE_A_SIZE = ("v5litepod", "v6e")


@dataclasses.dataclass(frozen=True)
class TpuType:
    """A type of slice.

    Attributes:
        name: for messages.
        flags: of `gcloud compute tpus queued-resources create`.
        track: the release track of gcloud that has the flags: () or ("alpha",).
        runtime: software version of the VMs.
    """

    name: str
    flags: tuple[str, ...]
    track: tuple[str, ...]
    runtime: str


def tpu_type(name: str, topology: str = "", runtime: str = "") -> TpuType:
    """Returns the type called `name`, as plan or gcloud writes it: `v5e-256`, `v4:4x4x8`.

    `name` may be the generation alone if `topology` states the chips along each dim.

    Raises:
        Mistake: there is no such type, or its runtime version is unknown and not given.
    """
    if not name:
        raise Mistake("--type is missing; add it, for example --type=v4-128")
    found = re.fullmatch(r"(\w+)(?:-([0-9]+)|:([0-9x]+))?", name.lower())
    generation = _ALIASES.get(found[1], found[1]) if found else ""
    if not found or (generation not in _RUNTIMES and not runtime):
        raise Mistake(
            f"--type={name} is not known; expected {', '.join(_RUNTIMES)} or v5e with a size, for"
            " example v4-128, v5e-256 or v4:4x4x8; another type needs --runtime=VERSION"
        )
    size, dims = found[2], topology or found[3]
    if bool(size) == bool(dims):
        raise Mistake(
            f"--type={name}{f' --topology={topology}' if topology else ''} needs either a size or a"
            f" topology, for example --type=v4-128 or --type=v4 --topology=4x4x4"
        )
    runtime = runtime or _RUNTIMES[generation]
    if size:
        accelerator = f"{generation}-{size}"
        return TpuType(accelerator, (f"--accelerator-type={accelerator}",), (), runtime)
    expected = 2 if generation in _FLAT else 3
    if not re.fullmatch(r"[1-9][0-9]*(x[1-9][0-9]*)+", dims) or dims.count("x") != expected - 1:
        raise Mistake(f"topology {dims} of {generation} does not have {expected} dims, like 4x4x4")
    if generation in _ONE_SHAPE_A_SIZE:
        accelerator = f"{generation}-{math.prod(map(int, dims.split('x')))}"
        return TpuType(accelerator, (f"--accelerator-type={accelerator}",), (), runtime)
    # The stable commands know topologies of v2, v3 and v4 alone.
    track = () if generation in ("v2", "v3", "v4") else ("alpha",)
    flags = (f"--type={generation}", f"--topology={dims}")
    return TpuType(f"{generation}:{dims}", flags, track, runtime)
