"""`palmscale plan` and `explain`: make this process one that compiles for TPUs not there."""

import argparse
import importlib.metadata
import os

from palmscale.errors import UserError
from palmscale.observe import log

# libtpu asks a TPU machine's surroundings for all of this; here it is told. It reads them once,
# when it is loaded.
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


def plan(args: argparse.Namespace) -> int:
    """`palmscale plan`: prints whether a run fits and how fast it goes; 1: it does not fit."""
    log.set_up()
    os.environ.update(ENVIRONMENT)
    from palmscale.cli import (
        measuring,
        planning,
        planning_generation,
    )  # JAX starts with what the environment says now

    run = planning.load_run(args.gin_file, args.gin_bindings)
    if args.topology is None and run.layout.topology is None:
        return measuring.measure(run)
    _check_libtpu()
    planning.use_no_device()
    where = planning.topology_of(run, args.topology, args.slices)
    if args.generate:
        return planning_generation.plan_generation(args, run, where)
    return planning.plan(args, run, where)


def explain(args: argparse.Namespace) -> None:
    """`palmscale explain`: prints where every parameter lies; with --compiled, the program too."""
    os.environ.update(ENVIRONMENT)
    from palmscale.cli import explain as layout
    from palmscale.cli import planning

    layout.explain(args)
    if args.compiled:
        _check_libtpu()
        planning.use_no_device()
        planning.explain(args)


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
