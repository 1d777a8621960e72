"""An engine and likelihoods on two processes of a job tell what one device tells."""

import json
import os
import subprocess
import sys

import forked
import numpy as np
import pytest
import source_tree
from tiny_job import free_port

SCRIPT = """
import json, sys
sys.path[:0] = {path!r}
import jax
jax.distributed.initialize("localhost:{port}", 2, {index}, initialization_timeout=240)
import numpy as np, test_partition as tests
from palmscale.infer.partition import placed
from palmscale.partition.shardings import unbox
boxed = tests.abstract_params(tests.MODEL)
tokens_BL = np.zeros((1, 4), np.int32)
variables = tests.MODEL.init({{"params": jax.random.key(0)}}, tokens_BL)
params = jax.device_get(unbox(variables["params"]))
facts = {{"one": tests.told({{"params": params}})}} if {index} == 0 else {{}}
for name, table, data, tensor in {cases!r}:
    layout = tests.laid_out(
        tests.MODEL, boxed, table=table, data=data, tensor=tensor, devices=jax.devices()
    )
    shapes = placed(boxed, layout)
    on_mesh = jax.tree.map(lambda a, s: jax.device_put(a, s.sharding), params, shapes)
    facts[name] = tests.told({{"params": on_mesh}}, layout)
print("facts:" + json.dumps(facts))
"""
CASES = [("2d", "weights_2d", 2, 2)]


@pytest.fixture(scope="module")
def facts():
    """What each of two processes with two devices each tells."""
    port, path = free_port(), [str(source_tree.CHECKOUT / "tests/unit/infer"), *sys.path]
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    jobs = [
        forked.Popen(
            [sys.executable, "-c", SCRIPT.format(path=path, port=port, index=i, cases=CASES)],
            env=os.environ | {"XLA_FLAGS": flags}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for i in range(2)
    ]  # fmt: skip
    found = []
    for job in jobs:
        out, err = job.communicate(timeout=280)
        assert job.returncode == 0, err[-4000:]
        line = next(line for line in out.splitlines() if line.startswith("facts:"))
        found.append(json.loads(line.removeprefix("facts:")))
    return found


def test_both_processes_tell_the_tokens_and_log_probabilities_of_one_device(facts):
    assert facts[0]["2d"] == facts[1]["2d"]
    (ids, log_probabilities), (one_ids, one_log_probabilities) = facts[0]["2d"], facts[0]["one"]
    assert ids == one_ids
    assert np.abs(np.subtract(log_probabilities, one_log_probabilities)).max() < 1e-5
