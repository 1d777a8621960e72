"""This process's place in a job, and how the processes join.

If a host does not join, JAX's own client ends the process from C++ without naming the host. The
processes therefore first hold a roll call on plain sockets at the coordinator's address, which
names the missing processes. JAX then starts at the same address.
"""

import contextlib
import dataclasses
import errno
import json
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from palmscale.cluster.agree import Peers
from palmscale.errors import HostLost, UserError

_Tell = Callable[[Callable[[], str]], None]

_RETRY_SECONDS = 0.2
_ANSWER_SECONDS = 5.0  # for a connecting process to identify itself
_TELL_AFTER_SECONDS = 10.0
_RUN_EVERYWHERE = (
    "the command must run on every worker: use launch/tpu_pod.sh run, or gcloud with --worker=all"
)


_MOST_SECONDS = 10**9  # 32 years: clocks and the coordination service take no more


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deadlines:
    """How long hosts wait for one another, in seconds; 1 to 10^9 each.

    Attributes:
        join_seconds: for all hosts to start.
        heartbeat_seconds: until a silent host counts as dead and the job ends.
        agree_seconds: for all hosts to compile the step and compare programs.
        step_seconds: that the start of the devices, reading text, a step, an evaluation batch or a
            save may make no progress.
        shutdown_seconds: for all hosts to exit after the run.
    """

    join_seconds: int = 300
    heartbeat_seconds: int = 60
    agree_seconds: int = 1800
    step_seconds: float = 600.0
    shutdown_seconds: int = 60

    def __post_init__(self) -> None:
        for field, seconds in dataclasses.asdict(self).items():
            if not 1 <= seconds <= _MOST_SECONDS:
                raise UserError(
                    f"Deadlines.{field}={seconds} must be 1 to {_MOST_SECONDS:,} seconds."
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessPlace:
    """The place of one process in a job.

    Attributes:
        coordinator: HOST:PORT where process 0 listens.
        num_processes: number of processes in the job.
        process_id: index of this process, from 0.
        local_device_ids: the devices that this process may use; None: all.

    Raises:
        UserError: the address is not valid, or the index is out of range.
    """

    coordinator: str
    num_processes: int
    process_id: int
    local_device_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        host, colon, port = self.coordinator.rpartition(":")
        if not (host and colon and port.isdecimal() and 0 < int(port) < 65536):
            raise UserError(
                f"coordinator={self.coordinator!r} is not an address; expected HOST:PORT of process"
                " 0, for example 10.0.0.1:8476."
            )
        if not 0 <= self.process_id < self.num_processes:
            raise UserError(
                f"process_id={self.process_id} is out of range for"
                f" num_processes={self.num_processes}; processes are numbered from 0."
            )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port where process 0 listens."""
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port)


def detect(timeout_seconds: int) -> ProcessPlace | None:
    """Returns this process's place as detected by JAX on Cloud TPU, GKE, Slurm or Open MPI.

    Returns None if nothing is detected, or if the job has a single process.
    """
    from jax._src.clusters import ClusterEnv  # guarded by tests/unit/cluster/test_join.py

    coordinator, count, index, devices = ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, timeout_seconds
    )
    if coordinator is None or count is None or index is None or count < 2:
        return None
    return ProcessPlace(
        coordinator=coordinator,
        num_processes=count,
        process_id=index,
        local_device_ids=None if devices is None else tuple(devices),
    )


@contextlib.contextmanager
def join(
    place: ProcessPlace | None,
    deadlines: Deadlines,
    *,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[Peers]:
    """Joins the job before JAX is first used, and yields the processes in it.

    `say` receives a message about missing processes if the wait is long.

    On a normal exit, all processes wait for one another. After an exception they must not: the
    caller has to end the process with `os._exit`, or it would hang in JAX's shutdown barrier.

    Raises:
        HostLost: a host did not join in time; it is named.
        UserError: the processes have different values of `num_processes`, or the same index.
    """
    if place is None or place.num_processes == 1:
        yield Peers(["localhost"], index=0)
        return
    hosts = roll_call(place, deadlines.join_seconds, say=say)
    jax.distributed.initialize(
        place.coordinator,
        place.num_processes,
        place.process_id,
        place.local_device_ids,
        cluster_detection_method="deactivate",
        initialization_timeout=deadlines.join_seconds,
        heartbeat_timeout_seconds=deadlines.heartbeat_seconds,
        shutdown_timeout_seconds=deadlines.shutdown_seconds,
    )
    yield Peers(hosts, index=place.process_id)
    jax.distributed.shutdown()


def roll_call(
    place: ProcessPlace, timeout_seconds: float, *, say: Callable[[str], None] = lambda text: None
) -> list[str]:
    """Waits until all processes have joined and returns their host names, by process index.

    Raises:
        HostLost: some processes did not join in time; every process that joined learns which.
        UserError: the processes have different values of `num_processes`, or the same index.
    """
    take_part = _call if place.process_id == 0 else _answer
    tell = _once_after(_TELL_AFTER_SECONDS, say)
    verdict = take_part(place, timeout_seconds, tell)
    if "hosts" in verdict:
        return verdict["hosts"]
    raise (HostLost if verdict["lost"] else UserError)(verdict["error"])


def _call(place: ProcessPlace, timeout_seconds: float, tell: _Tell) -> dict[str, Any]:
    """Process 0's part: waits for the others and sends the outcome to all of them."""
    deadline = time.monotonic() + timeout_seconds
    came: dict[int, tuple[str, socket.socket | None]] = {0: (socket.gethostname(), None)}
    expected = range(place.num_processes)
    error = ""
    with _listener(place, timeout_seconds, tell) as listener:
        while len(came) < place.num_processes and not error and time.monotonic() < deadline:
            tell(lambda: f"waiting for process {_listed(expected, came)}; {_RUN_EVERYWHERE}")
            listener.settimeout(_RETRY_SECONDS)
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                connection, _ = listener.accept()
                connection.settimeout(_ANSWER_SECONDS)
                answer = json.loads(connection.makefile().readline())
                index, count, host = answer["process"], answer["processes"], str(answer["host"])
                if count != place.num_processes:
                    error = (
                        f"process {index} on {host} has num_processes={count} and process 0 on"
                        f" {came[0][0]} has num_processes={place.num_processes}; start every"
                        " process with the same number."
                    )
                elif index in came:
                    error = (
                        f"{came[index][0]} and {host} both have process_id={index}; each process"
                        " needs its own."
                    )
                came.setdefault(index if not error else -1, (host, connection))
    verdict: dict[str, Any] = {"hosts": [came[i][0] for i in expected if i in came]}
    if len(verdict["hosts"]) < place.num_processes or error:
        verdict = {
            "lost": not error,
            "error": error
            or f"process {_listed(expected, came)} of {place.num_processes} did not join within"
            f" {timeout_seconds:g} s; joined: {_present(came)}; {_RUN_EVERYWHERE}",
        }
    for _, connection in came.values():
        if connection is not None:
            with connection, contextlib.suppress(OSError):
                connection.sendall(json.dumps(verdict).encode() + b"\n")
    return verdict


def _listener(place: ProcessPlace, timeout_seconds: float, tell: _Tell) -> socket.socket:
    """Returns a socket that listens on all addresses; waits if another program uses the port."""
    port, deadline = place.address[1], time.monotonic() + timeout_seconds
    # With IPv6, the socket accepts IPv4 as well.
    both = {"family": socket.AF_INET6, "dualstack_ipv6": True}
    options: dict[str, Any] = both if socket.has_dualstack_ipv6() else {}
    while True:
        try:
            return socket.create_server(("", port), backlog=place.num_processes, **options)
        except OSError as problem:
            if problem.errno != errno.EADDRINUSE:
                raise UserError(
                    f"process 0 cannot listen on port {port} ({problem.strerror}); choose another"
                    " port for the coordinator."
                ) from problem
        if time.monotonic() > deadline:
            raise HostLost(
                f"process 0 cannot listen on port {port}: another program has used it for"
                f" {timeout_seconds:g} s; end that program or choose another port for the"
                " coordinator"
            )
        tell(lambda: f"waiting for port {port}, which another program uses")
        time.sleep(_RETRY_SECONDS)


def _answer(place: ProcessPlace, timeout_seconds: float, tell: _Tell) -> dict[str, Any]:
    """Any other process's part: identifies itself until process 0 sends the outcome."""
    deadline = time.monotonic() + timeout_seconds
    me = {
        "process": place.process_id,
        "processes": place.num_processes,
        "host": socket.gethostname(),
    }
    problem = ""
    while (left := deadline - time.monotonic()) > 0:
        tell(lambda: f"process 0 at {place.coordinator} has not answered yet")
        try:
            with socket.create_connection(place.address, timeout=left) as connection:
                connection.sendall(json.dumps(me).encode() + b"\n")
                # Process 0 answers only after all have joined or its own wait is over.
                connection.settimeout(left + _ANSWER_SECONDS)
                if line := connection.makefile().readline():
                    return json.loads(line)
                problem = "it closed the connection"
        except OSError as error:
            problem = error.strerror or str(error)
        except ValueError:
            problem = "another program listens there"
        time.sleep(_RETRY_SECONDS)
    return {
        "lost": True,
        "error": f"process 0 did not answer at {place.coordinator} within {timeout_seconds:g} s"
        f" ({problem}); it must be running and reachable there; {_RUN_EVERYWHERE}",
    }


def _once_after(seconds: float, say: Callable[[str], None]) -> _Tell:
    start, told = time.monotonic(), False

    def tell(text: Callable[[], str]) -> None:
        nonlocal told
        if not told and time.monotonic() - start > seconds:
            told = True
            say(text())

    return tell


def _listed(expected: Sequence[int], came: dict[int, Any]) -> str:
    missing = [index for index in expected if index not in came]
    return ", ".join(map(str, missing[:8])) + (f" and {len(missing) - 8} more" * (len(missing) > 8))


def _present(came: dict[int, tuple[str, Any]]) -> str:
    present = [f"{index} ({host})" for index, (host, _) in sorted(came.items())]
    return ", ".join(present[:8]) + (f" and {len(present) - 8} more" * (len(present) > 8))
