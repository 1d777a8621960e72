"""libtpu on a machine without TPUs: its version, its environment, and the devices it describes."""

import contextlib
import importlib.metadata
from collections.abc import Iterator

import jax
from jax.experimental.compilation_cache import compilation_cache

from palmscale.errors import UserError
from palmscale.observe import log
from palmscale.plan.hardware.topology import Topology
from palmscale.run import place

# On a TPU host libtpu asks the machine for all of this. It reads the variables once, when it is
# loaded, which is when the first topology is described.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v4-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


@contextlib.contextmanager
def compiler() -> Iterator[None]:
    """Lets JAX compile for devices that do not exist; JAX may already have started on others.

    JAX's compilation cache is off meanwhile: it cannot load a program for absent devices.

    Raises:
        UserError: libtpu is not installed.
    """
    check_installed()
    place.set_environment(ENVIRONMENT)
    was_enabled = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # JAX asks only once whether the cache is enabled
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", was_enabled)
        compilation_cache.reset_cache()


def check_installed() -> None:
    """Checks that libtpu is installed; warns of a version that this JAX is not released with.

    Raises:
        UserError: it is not installed.
    """
    try:
        found = importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            "planning compiles with libtpu, which is not installed; it is a Linux package and needs"
            " no TPU: pip install 'palmscale[plan]'."
        ) from None
    wanted = [
        requirement.partition("==")[2].partition(";")[0].strip(" *").rstrip(".")
        for requirement in importlib.metadata.requires("jax") or ()
        if requirement.startswith("libtpu==")
    ]
    if wanted and not any(
        found == version or found.startswith(f"{version}.") for version in wanted
    ):
        log.warn(
            f"libtpu {found} is installed, but jax {importlib.metadata.version('jax')} uses"
            f" {wanted[0]} on TPUs, and another compiler may plan differently; run"
            f" pip install 'libtpu=={wanted[0]}.*'."
        )


def devices_of(topology: Topology) -> list[jax.Device]:
    """Returns the devices of a topology, which need not exist.

    Raises:
        UserError: libtpu cannot be used, and why.
    """
    try:
        return topology.describe()
    except (ImportError, RuntimeError, jax.errors.JaxRuntimeError) as error:
        text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "lockfile" in str(error):
            raise UserError(
                "another process on this machine holds libtpu; end that process, or start both"
                " with ALLOW_MULTIPLE_LIBTPU_LOAD=1, which lets them share it."
            ) from None
        raise UserError(
            f"libtpu cannot describe {topology}: {text}; install the libtpu that this JAX is"
            " released with (pip install 'palmscale[plan]'), or, where JAX has already started on"
            " TPUs, plan in a new process with JAX_PLATFORMS=cpu."
        ) from None
