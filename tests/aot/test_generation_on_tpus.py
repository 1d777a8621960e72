"""What the TPU compiler makes of the engine's programs, without TPUs: what lies where and moves."""

import json
import os
import subprocess
import sys

import pytest
import source_tree
import tpu_generation as tpu
from tpu_program import ENVIRONMENT

DEVICES = 8
LAYER_CACHE = (
    tpu.SEQUENCES * tpu.POSITIONS * tpu.MODEL.dim_head * 2
)  # bytes of keys, of all devices
KERNEL = tpu.MODEL.dim * 4 * tpu.MODEL.dim * 2  # bytes of a layer's gate


@pytest.fixture(scope="module")
def facts():
    paths = [str(source_tree.CHECKOUT), str(source_tree.CHECKOUT / "tests/support/programs")]
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(paths)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # it refuses absent devices
    done = subprocess.run(
        [sys.executable, source_tree.CHECKOUT / "tests/support/programs/tpu_generation.py"],
        env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("facts:"))
    return json.loads(line.removeprefix("facts:"))


def test_the_cache_of_a_device_is_its_share_of_the_sequences(facts):
    decode = facts["decode"]
    lengths = 4 * tpu.SEQUENCES
    assert decode["cache_bytes"] == 2 * tpu.MODEL.depth * LAYER_CACHE // DEVICES + lengths
    held = decode["cache_bytes"] + decode["weight_bytes"]
    assert held <= decode["argument_bytes"] < 1.1 * held


def test_a_decode_step_moves_neither_weights_nor_the_cache(facts):
    assert facts["decode"]["table"] == "weights_2d"
    largest = max(size for _, _, size in facts["decode"]["collectives"])
    assert largest < min(KERNEL, LAYER_CACHE) / 8


def test_a_decode_step_writes_the_cache_in_place(facts):
    decode = facts["decode"]
    assert decode["aliased_bytes"] >= decode["cache_bytes"]
    assert decode["temporary_bytes"] < decode["weight_bytes"]


def test_a_small_prefill_moves_no_weights_and_a_large_one_gathers_them(facts):
    assert facts["prefill"]["table"] == "weights_2d"
    assert not [
        c for c in facts["prefill"]["collectives"] if c[0] == "all-gather" and c[2] >= KERNEL
    ]
    assert facts["large prefill"]["table"] == "weights_gathered"
    assert facts["large prefill"]["weight_bytes"] == facts["decode"]["weight_bytes"]


def test_a_slot_is_filled_where_it_lies_and_taken_without_gathering_the_others(facts):
    assert facts["moves"]["insert"] == []
    assert "all-gather" not in " ".join(facts["moves"]["take"])
