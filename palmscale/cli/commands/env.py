"""`palmscale env`: versions, devices, caches and settings of this machine, for bug reports."""

import argparse
import importlib.metadata
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

from palmscale.cli.parser import add_command

_PACKAGES = (
    *("palmscale", "jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint"),
    *("tensorstore", "numpy", "grain", "seqio", "tensorflow"),
)
_PREFIXES = (
    *(
        "JAX_",
        "XLA_",
        "LIBTPU_",
        "TPU_",
        "CUDA_",
        "NVIDIA_",
        "NCCL_",
        "TF_",
        "EPATH_",
        "PALMSCALE_",
    ),
    *("HF_", "WANDB_", "GOOGLE_", "GCS_", "SLURM_", "OMPI_COMM_WORLD_", "MEGASCALE_", "XDG_"),
    *("PYTHONPATH", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "STORAGE_EMULATOR_HOST"),
)
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|CRED|AUTH|COOKIE|JWT", re.IGNORECASE)


def add(commands: Any) -> None:
    """Adds the command and its flags."""
    summary = "Print versions, devices, caches and environment variables, for bug reports."
    command = add_command(commands, "env", env, summary)
    command.add_argument(
        "--no_devices", action="store_true", help="do not start JAX: a run may hold the devices"
    )


def env(args: argparse.Namespace) -> None:
    """Prints what a bug report should contain; values that may be secret are left out."""
    from palmscale.observe import tables

    facts = [
        ("python", f"{platform.python_version()}, {sys.executable}"),
        ("platform", platform.platform()),
        ("cores", str(len(os.sched_getaffinity(0)))),
        *((name, _version(name)) for name in _PACKAGES),
        ("devices", "not asked" if args.no_devices else _devices()),
        *((name, _size(path)) for name, path in _caches().items()),
        *_variables(dict(os.environ)),
    ]
    tables.print_facts(facts)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> str:
    import jax

    try:
        devices = jax.devices()
    except RuntimeError as error:
        return f"none: {str(error).splitlines()[0]}"
    return f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"


def _caches() -> dict[str, Path]:
    from palmscale.run import place

    home = place.cache_directory()
    compiled = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    return {
        "row caches": home / "data",
        "compiled programs": Path(compiled) if compiled else home / "jax",
        "plans": home / "plans",
    }


def _size(path: Path) -> str:
    from palmscale.observe import units

    if not path.is_dir():
        return f"{path}, absent"
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except OSError:  # deleted meanwhile
                continue
    return f"{path}, {units.size(total)}"


def _variables(environment: dict[str, str]) -> list[tuple[str, str]]:
    """Returns the variables that bear on a run, without what may be secret."""
    return [
        (name, "(set, not shown)" if _SECRET.search(name) else value)
        for name, value in sorted(environment.items())
        if name.startswith(_PREFIXES)
    ]
