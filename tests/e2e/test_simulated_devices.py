"""Simulated devices never stand still in different collectives: small runs end on every mesh."""

import itertools
import os

import pytest
import tiny_job
import tiny_run

FLAG = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
COMPILED_AS_A_USERS_RUN = os.environ | {"XLA_FLAGS": ""}

MESHES = [(4, 2), (2, 4), (8, 1), (1, 8), (2, 2)]
# Small enough for a step to be over before all devices have begun it.
SHAPES = [
    {"PaLM.dim": dim, "PaLM.depth": depth, "PaLM.dim_head": dim // 8, "PaLM.heads": 8}
    for dim, depth in [(96, 2), (64, 1), (32, 3), (128, 1), (160, 2), (48, 4)]
]
RUNS = [
    (data, model, shape, processes)
    for (data, model), shape in itertools.product(MESHES, SHAPES)
    for processes in (1, 2)
]


def arguments(tiny, workdir, data, model, shape, processes):
    changes = shape | {
        "DATA": data,
        "MODEL_PARALLEL": model,
        "SIMULATED_DEVICES": data * model // processes,
        "NUM_TOKENS": 4000,
        "PADDED_TOKENS": 4000,
        "TRAIN_STEPS": 20,
        "EVAL_EVERY_STEPS": 10,
        "SAVE_EVERY_STEPS": 10,
        "SEQUENCE_LENGTH": 64,
        "LOSS_CHUNK_LENGTH": 64,
    }
    return tiny(workdir, **changes)


def trains(tiny, tmp_path, data, model, shape, processes):
    workdir = tmp_path / "run"
    command = arguments(tiny, workdir, data, model, shape, processes)
    if processes == 1:
        tiny_run.run(*command, env=COMPILED_AS_A_USERS_RUN)
    else:
        environment = {"XLA_FLAGS": ""}
        with tiny_job.Job(
            command, tmp_path / "logs", processes=processes, environment=environment
        ) as job:
            assert job.wait(1800) == [0, 0], job.said(0)
    assert tiny_run.steps(workdir)[-1] == 20


def test_every_program_of_a_run_is_compiled_with_collectives_in_order(tiny, tmp_path):
    dumped = tmp_path / "dumped"
    flags = os.environ["XLA_FLAGS"].replace(FLAG, f"--xla_dump_to={dumped}")
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    changes = {"TRAIN_STEPS": 2, "PaLM.depth": 1, "SAMPLE_PROMPT": "'a'"}
    tiny_run.run(*tiny(tmp_path / "run", **changes), env=environment)
    options = {path.name: path.read_text() for path in dumped.glob("*debug_options")}
    programs = {name.split(".")[1].removeprefix("jit_") for name in options}
    eager = {"slice"}
    assert {"init", "train_step", "eval_step", "prefill", "insert", "decode"} | eager <= programs
    # XLA translates the flag to the name of a scheduler, and writes what differs from its defaults.
    wrong = [name for name, text in options.items() if "TYPE_MEMORY_OPTIMIZED" not in text]
    assert not wrong


@pytest.mark.long
@pytest.mark.parametrize("attempt", range(5))
@pytest.mark.parametrize("run", RUNS, ids=str)
def test_no_run_of_any_small_shape_on_any_mesh_stands_still(tiny, tmp_path, run, attempt):
    trains(tiny, tmp_path, *run)
