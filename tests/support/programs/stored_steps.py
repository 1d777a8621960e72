"""The folder of a run whose checkpoints hold the initial parameters of a small model."""

import jax
import jax.numpy as jnp
from small_run import MODEL

from palmscale.checkpoint.lease import Lease
from palmscale.checkpoint.store import CheckpointStore
from palmscale.data.vocabulary import ByteVocabulary
from palmscale.partition.shardings import unbox
from palmscale.run.identity import describe


def store_steps(workdir, steps, cursor):
    """Saves these steps to a folder, and returns it."""
    params = unbox(jax.jit(MODEL.init)(jax.random.key(0), jnp.zeros((1, 1), int))["params"])
    meta = {
        "identity": {"model": describe(MODEL)},
        "vocabulary": ByteVocabulary().description(),
        "sequence_length": 32,
        "num_params": 38_496,
        "operative_config": "",
        "mesh": {"replica": 1, "data": 1, "model": 1},
        "versions": {},
    }
    with Lease(workdir) as lease, CheckpointStore(workdir / "checkpoints", lease=lease) as store:
        for step in steps:
            store.save(step, params=params, optimizer_state={}, cursor=cursor, meta=meta)
    return workdir
