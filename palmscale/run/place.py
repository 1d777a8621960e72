"""Where this process stands: its rank in the job, and its folder for caches, by its environment."""

import os
from collections.abc import Mapping
from pathlib import Path

from palmscale.cluster.join import ProcessPlace, detect
from palmscale.errors import UserError
from palmscale.storage.place import local_path

COORDINATOR, NUM_PROCESSES, PROCESS_ID = VARIABLES = (
    "JAX_COORDINATOR_ADDRESS",
    "JAX_NUM_PROCESSES",
    "JAX_PROCESS_ID",
)


def place_from(
    environ: Mapping[str, str] = os.environ, *, timeout_seconds: int = 300
) -> ProcessPlace | None:
    """Returns this process's coordinator and rank; None: it is a job of its own.

    JAX's variables come first (JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, which
    `launch/local.sh` sets), then what Cloud TPU, GKE, Slurm or Open MPI tell.

    Args:
        environ: of this process.
        timeout_seconds: that the detection of a cluster may take.

    Raises:
        UserError: the variables are incomplete or no numbers.
    """
    coordinator, count, index = (environ.get(name) for name in VARIABLES)
    # JAX reads the address alone as well, of a cluster that tells the rest.
    if count is None and index is None:
        return detect(timeout_seconds)
    for name, value in zip(VARIABLES, (coordinator, count, index), strict=True):
        if value is None:
            raise UserError(f"{name} is not set; set all of {', '.join(VARIABLES)}, or none.")
    for name in (NUM_PROCESSES, PROCESS_ID):
        if not environ[name].isdecimal():
            raise UserError(f"{name}={environ[name]!r} is not a whole number.")
    return ProcessPlace(coordinator=coordinator, num_processes=int(count), process_id=int(index))


def cache_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Returns the user's folder for rows, compiled programs and plans.

    Raises:
        UserError: XDG_CACHE_HOME is not set, and the home folder is unknown.
    """
    return local_path(f"{environ.get('XDG_CACHE_HOME') or '~/.cache'}/palmscale")


def set_environment(variables: Mapping[str, str]) -> None:
    """Sets environment variables that a library reads when it is first loaded."""
    os.environ.update(variables)
