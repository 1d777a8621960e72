"""The bytes of a step's state, of its replicated arrays, and of its arrays at peak by kind."""

import math
from collections.abc import Sequence

import jax

from palmscale import axes
from palmscale.data.feed import PREFETCH_BATCHES
from palmscale.partition.shardings import path_name
from palmscale.plan.hardware.topology import Topology
from palmscale.plan.program.compile import Compiled
from palmscale.plan.program.memory import Held
from palmscale.plan.step import Step

_LARGE_ARRAY_BYTES = 64 * 2**20


def state_bytes(step: Step) -> dict[str, int]:
    """Returns the bytes a device of parameters and optimizer state."""
    return {
        "parameters": sum(map(_shard_bytes, jax.tree.leaves(step.params))),
        "optimizer state": sum(map(_shard_bytes, jax.tree.leaves(step.optimizer_state))),
    }


def replicated_bytes(step: Step) -> dict[str, int]:
    """Returns the bytes of each large array that every one of several devices holds whole."""
    return {
        path_name(path): leaf.size * leaf.dtype.itemsize
        for path, leaf in jax.tree_util.tree_leaves_with_path((step.params, step.optimizer_state))
        if leaf.size * leaf.dtype.itemsize > _LARGE_ARRAY_BYTES
        and step.mesh.size > 1
        and _shard(leaf) == leaf.shape
    }


def host_bytes(step: Step, topology: Topology) -> int:
    """Returns the bytes a host of one checkpoint in flight and of the batches read ahead.

    Of a checkpoint a host holds its share of one copy, which replicas divide; see checkpoint/.
    """
    replicas = step.mesh.shape.get(axes.REPLICA, 1)
    devices = topology.devices // topology.hosts
    state = sum(state_bytes(step).values()) * devices // replicas
    batch = 4 * step.tokens // topology.hosts  # int32 ids
    return state + (PREFETCH_BATCHES + 1) * batch  # one more is being read


def peak_bytes_by_kind(step: Step, arrays: Sequence[Held], compiled: Compiled) -> dict[str, int]:
    """Returns the bytes of the step's own arrays at peak, the largest kind first."""
    shards = {_shard(leaf) for leaf in jax.tree.leaves(step.params)}
    logits = logits_sizes(step)
    kinds: dict[str, int] = {}
    for held in arrays:
        kind = _kind(held, shards, step.layers, logits)
        kinds[kind] = kinds.get(kind, 0) + held.bytes
    # The compiler's total is the true one; what it has beyond our arrays has no name.
    rest = compiled.peak_bytes - compiled.argument_bytes - sum(kinds.values())
    if rest > 0:
        kinds["not attributed"] = rest
    return dict(sorted(kinds.items(), key=lambda item: -item[1]))


def logits_sizes(step: Step) -> set[int]:
    """Returns the sizes that the vocabulary's dim may have on a device."""
    return {-(-step.vocabulary // size) for size in (1, *step.mesh.shape.values())}


def _kind(held: Held, shards: set[tuple[int, ...]], layers: int, logits: set[int]) -> str:
    whole_layer = held.shape[1:] if held.shape[:1] == (1,) else held.shape
    if held.shape in shards:
        return "gradients" if held.dtype == "f32" else "parameters in bfloat16"
    if len(held.shape) >= 3 and held.shape[-1] in logits:
        return "logits"
    if len(held.shape) >= 3 and held.shape[0] == layers:
        return "activations saved for the backward pass"
    if "dot_general" in held.op_name or "convert" in held.op_name or len(whole_layer) >= 3:
        return "activations of one layer"
    return "workspace"


def _shard(leaf: jax.ShapeDtypeStruct) -> tuple[int, ...]:
    return tuple(leaf.sharding.shard_shape(leaf.shape))


def _shard_bytes(leaf: jax.ShapeDtypeStruct) -> int:
    return math.prod(_shard(leaf)) * leaf.dtype.itemsize
