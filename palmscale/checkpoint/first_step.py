"""A checkpoint of step 0 from tensors that are read in parts: of weights that are imported."""

import contextlib
import json
import time
from collections.abc import Mapping
from typing import Any

from palmscale.checkpoint import commit
from palmscale.checkpoint.array_parts import write_arrays
from palmscale.checkpoint.lease import Lease
from palmscale.checkpoint.malloc import return_large_buffers
from palmscale.checkpoint.reader import OPTIMIZER, PARAMS
from palmscale.checkpoint.steps import CURSOR, META, StepFolders
from palmscale.cluster.jointly import ALONE
from palmscale.errors import NotSaved, UserError
from palmscale.storage.place import Place
from palmscale.storage.tensor import Tensors

_CHECKPOINT_METADATA = {
    "item_handlers": {
        PARAMS: "orbax.checkpoint.experimental.v1._src.handlers.pytree_handler.PyTreeHandler"
    },
    "metrics": {},
    "performance_metrics": {},
    "init_timestamp_nsecs": None,
    "commit_timestamp_nsecs": None,
    "custom_metadata": {},
}


class _Written:
    """The response of a save that is done."""

    def result(self) -> None:
        return None


def write_first_step(
    directory: Place, params: Tensors, *, meta: Mapping[str, Any], lease: Lease
) -> None:
    """Writes the checkpoint of step 0, with these parameters and no optimizer state.

    It is verified like any other. Parts are read and written one after another.

    Args:
        directory: of the checkpoints, which has no verified step.
        params: by path.
        meta: what the checkpoint says of the model.
        lease: on the workdir.

    Raises:
        UserError: a tensor cannot be read.
        NotSaved: the storage fails.
    """
    return_large_buffers()
    folders = StepFolders(directory.absolute())
    path = folders.path(0)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        folders.delete(0)
        folders.check_room(sum(tensor.bytes for tensor in params.values()))
        _write(folders, path, params, meta, lease)
    except UserError:
        _remove(folders, lease)
        raise
    except (OSError, RuntimeError, ValueError) as error:  # TensorStore raises ValueError
        _remove(folders, lease)
        raise NotSaved(f"the imported weights could not be written to {path}: {error}") from error


def _write(
    folders: StepFolders, path: Place, params: Tensors, meta: Mapping[str, Any], lease: Lease
) -> None:
    now = time.time()
    arrays = {PARAMS: write_arrays(path / PARAMS, params), OPTIMIZER: {}}
    (path / "_CHECKPOINT_METADATA").write_bytes(json.dumps(_CHECKPOINT_METADATA).encode())
    (path / "orbax.checkpoint").write_bytes(b"")
    (path / "commit_success.txt").write_bytes(b"")  # asked for in object stores
    commit.commit(
        folders,
        0,
        _Written(),
        {CURSOR: json.dumps({}), META: json.dumps(dict(meta), indent=1)},
        {"step": 0, "time": now, "run_time": now, "metrics": {}, "arrays": arrays},
        lease=lease,
        peers=ALONE,
        timeout_seconds=60.0,
    )


def _remove(folders: StepFolders, lease: Lease) -> None:
    # On a full disk, partial files would leave no room for the next try.
    with contextlib.suppress(OSError, UserError):
        lease.check()
        folders.delete(0)
