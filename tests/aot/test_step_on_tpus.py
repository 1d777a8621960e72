"""What the TPU compiler makes of the train step, without TPUs: what travels, and in which dtype."""

import json
import os
import re
import subprocess
import sys

import pytest
import source_tree
import tpu_program as tpu

ACTIVATION = tpu.SEQUENCES // 2 * tpu.LENGTH // 2 * tpu.DIM  # elements on a device of a loss chunk
COLLECTIVES = r"all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"


def compiled(fields, rules=None, options=None):
    """The finished process that compiles; its output is the program's text."""
    command = [sys.executable, source_tree.CHECKOUT / "tests/support/programs/tpu_program.py"]
    command += [json.dumps(part or {}) for part in (fields, rules, options)]
    paths = [str(source_tree.CHECKOUT), str(source_tree.CHECKOUT / "tests/support/programs")]
    environment = {**os.environ, **tpu.ENVIRONMENT, "PYTHONPATH": os.pathsep.join(paths)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)  # it refuses absent devices
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def program():
    done = compiled(
        {"remat": ["query", "key", "value", "attention", "gate"]},
        rules={"vocab": "data", "vocab_embed": "model"},
        options={"xla_enable_async_all_gather": True},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def collectives(program):
    """(opcode, dtype, dims) of every array that comes out of a collective."""
    found = []
    for types, opcode in re.findall(rf"= (.*?) ((?:{COLLECTIVES})(?:-start)?)\(", program):
        arrays = re.findall(r"\b([a-z]+\d+)\[([\d,]*)\]", types)
        found += [(opcode, d, tuple(map(int, filter(None, dims.split(","))))) for d, dims in arrays]
    return found


def elements(dims):
    count = 1
    for size in dims:
        count *= size
    return count


def test_activations_and_weights_gradients_travel_in_bfloat16(program):
    large = [c for c in collectives(program) if elements(c[2]) >= ACTIVATION]
    assert large and any("reduce" in opcode for opcode, _, _ in large)
    # The gradient of the lookup is summed in float32: once a step, and of a frequent token's rows.
    others = [c for c in large if c[1] != "bf16" and tpu.VOCABULARY not in c[2]]
    assert not others


def test_each_layer_sums_its_activations_over_the_devices_once_forward_and_once_back(program):
    whole = (tpu.SEQUENCES // 2, tpu.LENGTH, tpu.DIM)
    sums = [c for c in collectives(program) if c[0].startswith("all-reduce") and c[2] == whole]
    assert 1 <= len(sums) <= 2  # one in each loop's body; or all layers' where it unrolls them


def test_logits_and_their_gradients_never_travel(program):
    whole = tpu.SEQUENCES // 2 * tpu.LENGTH // 2 * tpu.VOCABULARY
    assert all(elements(dims) < whole for _, _, dims in collectives(program))


def test_attention_is_a_kernel_and_its_forward_pass_is_not_run_again(program):
    calls = set(re.findall(r"%(splash_mqa\w+?)[.\d]* = ", program))
    assert {"splash_mqa_fwd_residuals", "splash_mqa_dkv_no_residuals"} == calls
    again = r'rematted_computation[^"]*splash_mqa_fwd[^"]*pallas_call'
    assert not re.search(again, program)


def test_the_compilers_options_reach_it(program):
    assert "all-gather-start" in program
    done = compiled({"depth": 1}, options={"xla_no_such_option": True})
    assert done.returncode != 0
    assert re.search(r"UserError: .*xla_no_such_option", done.stderr)
