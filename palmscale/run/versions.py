"""The versions of what decides a run's numbers."""

import contextlib
import importlib.metadata
import platform

import palmscale

_PACKAGES = ("flax", "optax", "orbax-checkpoint", "tensorstore", "numpy")
_COMPILERS = ("jax", "jaxlib", "libtpu")


def versions() -> dict[str, str]:
    """Returns the versions of what decides a run's numbers, by name.

    libtpu is among them where it is installed.
    """
    return {
        "python": platform.python_version(),
        "palmscale": palmscale.__version__,
        **compiler_versions(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def compiler_versions() -> dict[str, str]:
    """Returns the versions of what compiles a step, by name; what is not installed is absent."""
    found = {}
    for name in _COMPILERS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
