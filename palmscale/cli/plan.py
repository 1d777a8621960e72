"""`palmscale plan`: makes this process one that compiles for TPUs which are not there."""

import argparse
import importlib.metadata
import os

from palmscale.errors import UserError
from palmscale.observe import log

# libtpu asks a TPU machine's surroundings for all of this; here it is told. It reads them once,
# when it is loaded.
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_COMPILATION_CACHE": "false",  # it cannot read back what no device here can run
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v4-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def plan(args: argparse.Namespace) -> int:
    """`palmscale plan`: prints whether a run fits and how fast it goes; 1: it does not fit."""
    log.set_up()
    be_without_devices()
    from palmscale.cli import planning  # JAX starts with what the environment says now

    return planning.plan(args)


def explain(args: argparse.Namespace) -> None:
    """`palmscale explain`: prints where every parameter lies; with --compiled, the program too."""
    if args.compiled:
        be_without_devices()
    from palmscale.cli import explain as layout  # after that, as it imports JAX

    layout.explain(args)
    if args.compiled:
        from palmscale.cli import planning

        planning.explain(args)


def be_without_devices() -> None:
    """Readies this process to compile for TPUs; call it before JAX is imported.

    Raises:
        UserError: there is no libtpu.
    """
    _check_libtpu()
    os.environ.update(_ENVIRONMENT)


def _check_libtpu() -> None:
    """Raises UserError without libtpu; warns of one that this JAX is not released with."""
    jax_version = importlib.metadata.version("jax")
    try:
        found = importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            "plan compiles with libtpu, which is not installed - it is a package for Linux, and"
            " needs no TPU - pip install 'palmscale[plan]'"
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
            f"libtpu {found} is here, and jax {jax_version} comes with {wanted[0]} on TPUs: another"
            f" compiler may plan otherwise; pip install 'libtpu=={wanted[0]}.*'."
        )
