import json

import pytest

from palmscale.cli import gin_config, main
from palmscale.cli.planning import lowered_step
from palmscale.cli.run import load_run
from palmscale.plan.topology import parse

TINY = (
    "palm.PaLM.dim=128",
    "palm.PaLM.depth=2",
    "palm.PaLM.heads=2",
    "palm.PaLM.dim_head=128",
    "palm.PaLM.query_chunk=256",
    "NUM_TOKENS=512",
    "PADDED_TOKENS=512",
    "DATA=2",
    "MODEL_PARALLEL=2",
    "BATCH_SCHEDULE=((0, 8), (10, 16))",
    "SIMULATED_DEVICES=None",
)
GIN = "--gin_file=configs/recipes/cpu_1m.gin"


@pytest.fixture(autouse=True)
def no_configuration_is_left():
    yield
    gin_config.reset()


def plan(*arguments):
    return main.run(["plan", GIN, *(f"--gin.{b}" for b in TINY), *arguments])


def test_a_plan_is_printed_and_written(tmp_path, capsys):
    assert plan("--topology=v5e-4", "--batch=all", f"--workdir={tmp_path}") == 0
    out = capsys.readouterr().out
    assert "fits:" in out and "of 15.75 a device" in out and "MFU (paper's)" in out
    whole = json.loads((tmp_path / "plan.json").read_text())
    assert [one["batch_sequences"] for one in whole["plans"]] == [8, 16]
    digests = [one["step_digest"] for one in whole["plans"]]
    assert len(set(digests)) == 2
    assert "<!doctype html>" in (tmp_path / "plan.html").read_text()


def test_the_step_is_that_of_train_and_the_same_each_time():
    run = load_run(["configs/recipes/cpu_1m.gin"], TINY)
    first, second = (lowered_step(run, parse("v5e-4"), 8) for _ in range(2))
    assert first.digest == second.digest
    assert first.tokens == 8 * 256


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--topology=v5x-4",), "unknown topology 'v5x-4'"),
        (("--topology=v5e-8",), "needs 4 devices and there are 8"),
        (("--topology=v5e-4", "--batch=few"), "'few' is none of largest, all"),
        (("--topology=v5e-4", "--batch=7"), "do not divide over 2"),
        (
            ("--topology=v5e-4", "--gin.palm.PaLM.heads=3"),
            "has 3 along 'heads', which does not divide",
        ),
    ],
)
def test_a_mistake_is_one_line(arguments, says, capsys):
    assert plan(*arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert says in said[-1], said
