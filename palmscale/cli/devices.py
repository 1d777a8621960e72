"""Starts JAX on the devices that a run asks for. The environment wins where it says more."""

import os
from pathlib import Path

import jax


def start(simulated_devices: int | None) -> None:
    """Sets JAX's platform, number of CPU devices and compilation cache; before its first use.

    Args:
        simulated_devices: CPU devices to pretend to have; None: the machine's own.
    """
    if simulated_devices is not None:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", simulated_devices)
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "palmscale/jax"
        jax.config.update("jax_compilation_cache_dir", str(cache))
