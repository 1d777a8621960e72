"""Where this process stands: its rank in the job, and its folder for caches, by its environment."""

import os
import zlib
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

# Size, rank and rank on its machine as MPI launchers tell them: Open MPI, MPICH and Intel MPI,
# MVAPICH.
_MPI = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID"),
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_LOCAL_RANK"),
)
_PORTS = 61440, 65535  # those that JAX chooses from for Open MPI 4


def place_from(
    environ: Mapping[str, str] = os.environ, *, timeout_seconds: int = 300
) -> ProcessPlace | None:
    """Returns this process's coordinator and rank; None: it is a job of its own.

    JAX's variables come first (JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, which
    `launch/local.sh` sets), then what Cloud TPU, GKE, Slurm or Open MPI tell. Launchers of MPI that
    tell ranks but no coordinator need JAX_COORDINATOR_ADDRESS.

    Args:
        environ: of this process.
        timeout_seconds: that the detection of a cluster may take.

    Raises:
        UserError: the variables are incomplete or no numbers, or nothing tells the coordinator.
    """
    coordinator, count, index = (environ.get(name) for name in VARIABLES)
    # JAX reads the address alone as well, of a cluster that tells the rest.
    if count is None and index is None:
        return detect(timeout_seconds) or _of_mpi(environ)
    for name, value in zip(VARIABLES, (coordinator, count, index), strict=True):
        if value is None:
            raise UserError(f"{name} is not set; set all of {', '.join(VARIABLES)}, or none.")
    for name in (NUM_PROCESSES, PROCESS_ID):
        if not environ[name].isdecimal():
            raise UserError(f"{name}={environ[name]!r} is not a whole number.")
    return ProcessPlace(coordinator=coordinator, num_processes=int(count), process_id=int(index))


def _of_mpi(environ: Mapping[str, str]) -> ProcessPlace | None:
    """Returns the place that an MPI launcher tells that JAX does not know, such as Open MPI 5."""
    for names in _MPI:
        size, rank, local = (environ.get(name, "") for name in names)
        if size.isdecimal() and rank.isdecimal() and int(size) > 1:
            coordinator = environ.get(COORDINATOR) or _of_one_machine(environ)
            if coordinator is None:
                raise UserError(
                    f"{names[0]}={size} makes this one of {size} processes, and nothing tells where"
                    f" rank 0 listens; set {COORDINATOR}=HOST:PORT of rank 0 for all of them, for"
                    f" example: mpirun -x {COORDINATOR}=node1:8476."
                )
            return ProcessPlace(
                coordinator=coordinator,
                num_processes=int(size),
                process_id=int(rank),
                local_device_ids=(int(local),) if local.isdecimal() else None,
            )
    return None


def _of_one_machine(environ: Mapping[str, str]) -> str | None:
    """Returns a coordinator where Open MPI says that all processes run on this machine."""
    job, count = environ.get("PMIX_NAMESPACE"), environ.get("OMPI_COMM_WORLD_SIZE")
    if job is None or count is None or environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") != count:
        return None
    first, last = _PORTS
    return f"localhost:{first + zlib.crc32(job.encode()) % (last - first + 1)}"


def cache_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Returns the user's folder for rows, compiled programs and plans.

    Raises:
        UserError: XDG_CACHE_HOME is not set, and the home folder is unknown.
    """
    return local_path(f"{environ.get('XDG_CACHE_HOME') or '~/.cache'}/palmscale")


def environment() -> dict[str, str]:
    """Returns the environment variables of this process, as they stand now."""
    return dict(os.environ)


def set_environment(variables: Mapping[str, str]) -> None:
    """Sets environment variables that a library reads when it is first loaded."""
    os.environ.update(variables)
