"""The end of a save: every file is digested, and the step is marked as verified."""

import contextlib
from collections.abc import Mapping
from typing import Any

from palmscale.checkpoint import digest
from palmscale.checkpoint.arrays import save_arrays
from palmscale.checkpoint.lease import Lease
from palmscale.checkpoint.steps import StepFolders
from palmscale.checkpoint.summary import listed
from palmscale.cluster.agree import Peers
from palmscale.cluster.jointly import jointly
from palmscale.errors import UserError
from palmscale.storage.place import Place


class _Failed:
    """The response of a save that failed to start."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def result(self) -> None:
        raise self._error


def start(path: Place, items: Mapping[str, Any]) -> Any:
    """Starts writing the arrays; `result` of what is returned waits, and raises what went wrong.

    Raises nothing itself: the other processes wait for this one at the end of the save.
    """
    try:
        return save_arrays(path, items)
    except Exception as error:
        return _Failed(error)


def commit(
    folders: StepFolders,
    step: int,
    response: Any,
    texts: Mapping[str, str],
    manifest: Mapping[str, Any],
    *,
    lease: Lease,
    peers: Peers,
    timeout_seconds: float,
) -> None:
    """Waits for Orbax's commit, then digests and marks what was written; on all processes or none.

    It must not run JAX computations: it runs in the thread that saves, and their order relative to
    the training's would differ among hosts.

    Args:
        folders: of the steps.
        step: the step.
        response: what `start` returned.
        texts: content of further files, by name.
        manifest: what the step's manifest says besides the files' digests.
        lease: without which nothing is marked.
        peers: the processes that save.
        timeout_seconds: for them to wait for one another.

    Raises:
        RuntimeError: the save failed on a process; what it wrote is removed.
    """
    path = folders.path(step)

    def digest_own() -> dict[str, Any]:
        response.result()
        return digest.file_digests(path, process_index=peers.index, process_count=peers.count)

    def mark(shares: list[dict[str, Any]]) -> None:
        files = {name: found for share in shares for name, found in share.items()}
        _check_complete(set(digest.names(path)), files, manifest["arrays"])
        for name, text in texts.items():
            files[name] = digest.write_durably(path / name, text.encode())
        lease.check()
        digest.write_manifest(path, manifest, files)

    try:
        jointly(peers, "end of a save", digest_own, mark, timeout_seconds)
    except Exception:
        # On a full disk, partial files would leave no room for the next save.
        if peers.index == 0:
            with contextlib.suppress(OSError, UserError):
                lease.check()  # without the lease, the files may be another job's
                folders.delete(step)
                folders.remove_temporaries(f"{step}")
        raise


def _check_complete(
    found: set[str], digested: Mapping[str, Any], arrays: Mapping[str, Mapping[str, Any]]
) -> None:
    """Raises RuntimeError unless the listing of a step's files is what was written.

    Storage whose listing lags would otherwise leave a verified step with files missing.
    """
    if unread := found - digested.keys():
        raise RuntimeError(f"no process has digested {listed(unread)}")
    if unlisted := digested.keys() - found:
        raise RuntimeError(f"the storage does not list {listed(unlisted)}, which was written")
    for item, stored in arrays.items():
        if stored and not any(name.startswith(f"{item}/") for name in found):
            raise RuntimeError(f"the storage lists no file of {item}, which was written")
