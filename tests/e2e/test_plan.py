"""A run planned on TPUs that are not here, then started: the step is the planned one."""

import json
import os
import sys

import forked
import pytest

RUN = (
    "--gin_file=configs/recipes/cpu_1m.gin",
    "--gin.PaLM.dim=128",
    "--gin.PaLM.depth=2",
    "--gin.PaLM.heads=2",
    "--gin.PaLM.dim_head=64",  # too small for the TPU kernel: one program for all machines
    "--gin.PaLM.query_chunk=256",
    "--gin.DATA=2",
    "--gin.MODEL_PARALLEL=2",
    "--gin.BATCH_SCHEDULE=((0, 8),)",
    "--gin.TRAIN_STEPS=1",
    "--gin.SIMULATED_DEVICES=4",
    "--gin.SAMPLE_PROMPT=None",
)


def palmscale(*arguments, **environment):
    return forked.run(
        [sys.executable, "-m", "palmscale", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | environment,
    )


def test_a_run_knows_the_step_that_was_planned(tmp_path):
    workdir = f"--workdir={tmp_path}"
    file = tmp_path / "step"
    planned = palmscale("plan", *RUN, "--topology=v5e-4", workdir, f"--save_step={file}")
    assert planned.returncode == 0, planned.stderr
    assert "fits" in planned.stdout
    assert planned.stderr.splitlines() == [
        "Compiling the step of 8 sequences for v5e:2x2.",
        f"The compiled step is in {file}; loading it on TPUs has not been tested.",
    ]
    assert json.loads((tmp_path / "plan.json").read_text())["plans"][0]["fits"]
    trained = palmscale("train", *RUN, workdir)
    assert trained.returncode == 0, trained.stderr
    assert f"The compiled step is the one planned in {tmp_path / 'plan.json'}." in trained.stderr
    # The step in the file is this run's, but of a TPU.
    refused = palmscale("train", *RUN, f"--compiled_step={file}", f"--workdir={tmp_path / 'new'}")
    assert refused.returncode == 2, refused.stderr
    assert f"step_file={file} does not load here" in refused.stderr.splitlines()[-1]


@pytest.mark.long
@pytest.mark.parametrize(
    "changes",
    [
        ("--gin.TRAINABLE=@Lora()", "--gin.Lora.rank=4", "--gin.Lora.alpha=8.0"),
        ("--gin.TRAINABLE=('layers/*',)",),
    ],
    ids=["adapters", "layers"],
)
def test_a_run_that_trains_a_part_knows_the_step_that_was_planned(changes, tmp_path):
    base, workdir = tmp_path / "base", tmp_path / "run"
    assert palmscale("train", *RUN, f"--workdir={base}").returncode == 0
    warm = ("--gin.WARM_START=@WarmStart()", f"--gin.WarmStart.workdir={base}")
    run = (*RUN, *changes, *warm, f"--workdir={workdir}")
    planned = palmscale("plan", *run, "--topology=v5e-4")
    assert planned.returncode == 0, planned.stderr
    trained = palmscale("train", *run)
    assert trained.returncode == 0, trained.stderr
    assert f"The compiled step is the one planned in {workdir / 'plan.json'}." in trained.stderr


def test_explain_shows_the_compiled_program():
    explained = palmscale("explain", "--compiled", *RUN, "--topology=v5e-4")
    assert explained.returncode == 0, explained.stderr
    assert "layers/gate" in explained.stdout and "alive at peak" in explained.stdout


def test_small_changes_are_suggested_for_a_run_that_does_not_fit(tmp_path):
    large = ("--gin.REMAT='none'", "--gin.BATCH_SCHEDULE=((0, 32768),)")
    planned = palmscale(
        "plan", *RUN, *large, "--topology=v5e-4", "--suggest=1", f"--workdir={tmp_path}"
    )
    assert planned.returncode == 3, planned.stderr
    assert "DOES NOT FIT" in planned.stdout
    assert "\nfits with --gin." in planned.stdout


def test_a_search_writes_the_best_layout_as_a_gin_file(tmp_path):
    searched = palmscale("plan", *RUN, "--topology=v5e-4", "--search=2", f"--workdir={tmp_path}")
    assert searched.returncode == 0, searched.stderr
    assert "the run's own" in searched.stdout
    found = (tmp_path / "found.gin").read_text()
    assert "include 'configs/recipes/cpu_1m.gin'" in found and "TOPOLOGY = 'v5e:2x2'" in found
    again = palmscale("plan", f"--gin_file={tmp_path / 'found.gin'}", f"--workdir={tmp_path}")
    assert again.returncode == 0, again.stderr
