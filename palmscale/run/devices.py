"""Starts JAX on the devices that a run asks for. The environment wins where it says more."""

import jax

from palmscale.errors import UserError
from palmscale.observe import log
from palmscale.run.compiler_settings import with_flags_for_simulated_devices
from palmscale.run.place import cache_directory, environment, set_environment


def start(simulated_devices: int | None) -> None:
    """Sets JAX's platform, number of CPU devices and compilation cache.

    Args:
        simulated_devices: CPU devices to simulate; None: the machine's own.

    Raises:
        UserError: JAX has already started with other devices.
    """
    if simulated_devices is not None:
        jax.config.update("jax_platforms", "cpu")
        try:
            jax.config.update("jax_num_cpu_devices", simulated_devices)
            started = False
        except RuntimeError:  # JAX has started, with another number
            started = True
        if started:
            _check_started(simulated_devices)
    if jax.config.jax_platforms == "cpu":
        _keep_collectives_in_order()
    if not jax.config.jax_compilation_cache_dir:  # JAX_COMPILATION_CACHE_DIR sets it
        jax.config.update("jax_compilation_cache_dir", str(cache_directory() / "jax"))


def _check_started(simulated_devices: int) -> None:
    if jax.default_backend() != "cpu" or jax.local_device_count() != simulated_devices:
        raise UserError(
            f"JAX has already started with {jax.local_device_count()} {jax.default_backend()}"
            f" device(s), and Layout.simulated_devices={simulated_devices}; restart the Python"
            f" process and begin with jax.config.update('jax_num_cpu_devices',"
            f" {simulated_devices}), or train before anything else uses JAX."
        )


def _keep_collectives_in_order() -> None:
    found = environment().get("XLA_FLAGS", "")
    wanted = with_flags_for_simulated_devices(found)
    if wanted == found:
        return
    if not _has_started():
        set_environment({"XLA_FLAGS": wanted})
    elif jax.local_device_count() > 1:
        log.warn(
            f"JAX has already started without XLA_FLAGS='{wanted}': on simulated devices a program"
            " may stand still until XLA aborts it. Restart the Python process with this variable"
            " set, or train before anything else uses JAX."
        )


def _has_started() -> bool:
    from jax._src.xla_bridge import backends_are_initialized  # guarded by test_devices.py

    return backends_are_initialized()
