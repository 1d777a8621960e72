"""Arrays to and from the disk by Orbax, sharded and asynchronously: the only use of it."""

from typing import Any

import jax
from orbax.checkpoint import v1 as ocp
from orbax.checkpoint._src.serialization import tensorstore_utils

from palmscale.storage.objects import ObjectPath
from palmscale.storage.place import Place

# A minute in all for a request that an object store does not answer. By default TensorStore tries
# 33 times, for a quarter of an hour: longer than a run may stand still. Orbax has no setting for
# it, and a test guards the name.
tensorstore_utils._DEFAULT_OCDBT_TS_CONTEXT["gcs_request_retries"] = {
    "max_retries": 6,
    "max_delay": "16s",
}


def save_arrays(path: Place, items: dict[str, Any]) -> Any:
    """Starts writing trees of arrays, by name, to the folder `path`, in the place of what is there.

    Returns once the arrays may be donated. The answer's `result()` waits until all is committed,
    and raises where it failed. All processes call it.
    """
    with _context(path):
        return ocp.save_checkpointables_async(str(path), _not_empty(items), overwrite=True)


def load_arrays(path: Place, items: dict[str, Any], *, in_part: bool = False) -> dict[str, Any]:
    """Returns the trees of arrays, by name, in the shardings of `jax.ShapeDtypeStruct`s.

    An item without arrays is left out. `in_part`: so may arrays of a tree be. All processes call
    it.
    """
    with _context(path, in_part=in_part):
        return ocp.load_checkpointables(str(path), jax.tree.map(_with_sharding, _not_empty(items)))


def _context(path: Place, *, in_part: bool = False) -> ocp.Context:
    context = ocp.Context()
    context.pytree.loading.partial_load = in_part
    saving = context.array.saving
    saving.use_ocdbt = saving.use_zarr3 = True
    # Left to Orbax: use_replica_parallel, by which hosts that hold copies of an array write a part
    # of it each. It is on but for GPUs.
    # zstd takes 16% off float32 weights, makes the save bound by the CPU and host memory grow.
    saving.use_compression = False
    # Files of this size digest in parallel; chunks of this size let a mesh read only its part. An
    # object is sent as a whole, from memory: there Orbax's own size for them, 400 MiB, holds.
    saving.ocdbt_target_data_file_size = None if isinstance(path, ObjectPath) else 1 << 30
    saving.storage_options.chunk_byte_size = 1 << 25
    return context


def _not_empty(items: dict[str, Any]) -> dict[str, Any]:
    # Orbax refuses an item without arrays, such as the state of an optimizer that has none, and
    # then leaves threads behind that keep the process alive for five minutes.
    return {name: tree for name, tree in items.items() if jax.tree.leaves(tree)}


def _with_sharding(leaf: Any) -> jax.ShapeDtypeStruct:
    # Without one, Orbax would use the sharding that was saved, which another machine may not have.
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
