"""Saving again and again takes no more memory."""

import json
import subprocess
import sys

import pytest

SAVES = """
import json, os, sys, time
import jax, jax.numpy as jnp
from palmscale.checkpoint.lease import Lease
from palmscale.checkpoint.policy import KeepPolicy
from palmscale.checkpoint.store import CheckpointStore

workdir, saves, mebibytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def resident_mib():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

add = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)
state = {f"w{i}": jnp.zeros((mebibytes * 2**18 // 8,)) for i in range(8)}
memory = []
with Lease(workdir) as lease:
    keep = KeepPolicy(latest=2)
    with CheckpointStore(workdir + "/checkpoints", keep=keep, lease=lease) as store:
        for step in range(saves):
            store.save(step, params=state, optimizer_state={}, cursor={}, meta={})
            for _ in range(3):
                state = jax.block_until_ready(add(state))
            store.wait()
            memory.append(resident_mib())
print(json.dumps(memory))
"""


@pytest.mark.parametrize(
    ("saves", "mebibytes"), [(50, 16), pytest.param(200, 64, marks=pytest.mark.long)]
)
def test_resident_memory_stays_flat_over_many_saves(saves, mebibytes, tmp_path):
    command = [sys.executable, "-c", SAVES, str(tmp_path), str(saves), str(mebibytes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    memory = json.loads(done.stdout)
    assert max(memory[5:]) < 1.05 * memory[4] and len(memory) == saves, memory
