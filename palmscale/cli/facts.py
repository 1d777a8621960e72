"""What is known of a run: for its checkpoints, for the agreement of its hosts, for a person."""

import contextlib
import importlib.metadata
import platform
from typing import Any

import jax
from jax.sharding import Mesh

import palmscale
from palmscale.cli import gin_config
from palmscale.cli.wiring import Setting

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorstore", "numpy")
_COMPILERS = ("jax", "jaxlib", "libtpu")


def meta(here: Setting) -> dict[str, Any]:
    """Returns what a checkpoint says of the run that it is of, as JSON."""
    return {
        "identity": here.identity,
        "vocabulary": here.vocabulary.description(),
        "sequence_length": here.run.data.sequence_length,
        "num_params": here.num_params,
        "operative_config": gin_config.operative_config(),
        "mesh": {name: int(size) for name, size in here.mesh.shape.items()},
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Returns the versions of what decides a run's numbers, by name."""
    return {
        "python": platform.python_version(),
        "palmscale": palmscale.__version__,
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def compiler_versions() -> dict[str, str]:
    """Returns the versions of what compiles a step, by name."""
    found = {}
    for name in _COMPILERS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def flat(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """Returns the leaves of a JSON value by their dotted names."""
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in flat(inner, f"{name}.{key}")]
    return [(name.removeprefix("."), value)]


def mesh_text(mesh: Mesh) -> str:
    """Returns a mesh in a person's words: `8 cpu device(s), data=4 x model=2`."""
    kind = jax.devices()[0].device_kind
    sizes = " x ".join(f"{name}={size}" for name, size in mesh.shape.items() if size > 1)
    return f"{mesh.size} {kind} device(s), {sizes or 'one of each'}"
