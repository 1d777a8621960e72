"""Saves and loads sharded arrays with Orbax, asynchronously. No other file uses Orbax."""

from typing import Any

import jax
from orbax.checkpoint import v1 as ocp
from orbax.checkpoint._src.serialization import tensorstore_utils

from palmscale.storage.objects import ObjectPath
from palmscale.storage.place import Place

# Retry an unanswered object store request for about a minute in total. TensorStore's default is 33
# attempts over 15 minutes, longer than a run may stall. Orbax has no option for this; a test guards
# the private name.
tensorstore_utils._DEFAULT_OCDBT_TS_CONTEXT["gcs_request_retries"] = {
    "max_retries": 6,
    "max_delay": "16s",
}


def save_arrays(path: Place, items: dict[str, Any]) -> Any:
    """Starts writing named trees of arrays to the folder `path`, replacing its contents.

    Returns a response once the arrays may be donated. `response.result()` waits until everything is
    committed and raises if the save failed. All processes must call this.
    """
    with _context(path):
        return ocp.save_checkpointables_async(str(path), _not_empty(items), overwrite=True)


def load_arrays(path: Place, items: dict[str, Any], *, partial: bool = False) -> dict[str, Any]:
    """Returns the named trees of arrays, in the shardings of the given `jax.ShapeDtypeStruct`s.

    Items without arrays are omitted. With `partial`, a tree may request only some of the stored
    arrays. All processes must call this.
    """
    wanted = jax.tree.map(_with_sharding, _not_empty(items))
    if not wanted:  # of nothing, Orbax would load everything
        return {}
    with _context(path, partial=partial):
        return ocp.load_checkpointables(str(path), wanted)


def _context(path: Place, *, partial: bool = False) -> ocp.Context:
    context = ocp.Context()
    context.pytree.loading.partial_load = partial
    saving = context.array.saving
    saving.use_ocdbt = saving.use_zarr3 = True
    # use_replica_parallel is left at Orbax's default: on, except on GPUs. With it, hosts that hold
    # replicas of an array each write a part of it.
    # zstd saves only 16% on float32 weights, makes saves CPU-bound and increases host memory.
    saving.use_compression = False
    # This file size lets files be digested in parallel, and this chunk size lets a mesh read only
    # its part. Objects are uploaded whole, from memory, so they keep Orbax's size of 400 MiB.
    saving.ocdbt_target_data_file_size = None if isinstance(path, ObjectPath) else 1 << 30
    saving.storage_options.chunk_byte_size = 1 << 25
    return context


def _not_empty(items: dict[str, Any]) -> dict[str, Any]:
    # Orbax rejects an item without arrays, such as a stateless optimizer's state, and then leaks
    # threads that keep the process alive for five minutes.
    return {name: tree for name, tree in items.items() if jax.tree.leaves(tree)}


def _with_sharding(leaf: Any) -> jax.ShapeDtypeStruct:
    # Without a sharding, Orbax would use the saved one, which may not exist on this machine.
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
