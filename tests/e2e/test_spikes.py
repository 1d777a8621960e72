"""Loss spikes and gradients that are no numbers, put in on purpose, and what the run does."""

import json
import random
import re

import pytest
import tiny_run

STEPS = {
    "TRAIN_STEPS": 64,
    "SAVE_EVERY_STEPS": 4,
    "EVAL_EVERY_STEPS": 32,
    "REWIND_STEPS": 8,
    "SKIP_STEPS": 10,
    "spike.SpikePolicy.window_steps": 16,
    "spike.SpikePolicy.patience_steps": 2,
    "spike.SpikePolicy.non_finite_steps": 1,
}


def rewinds(workdir):
    """The audit log in the last checkpoint."""
    step = tiny_run.steps(workdir)[-1]
    meta = json.loads((workdir / f"checkpoints/{step}/meta.json").read_text())
    return meta["spike_history"]["rewinds"]


@pytest.fixture(scope="module")
def spiked(tiny, finished, tmp_path_factory):
    """The workdir of a run with a spike and a NaN, and what it said."""
    workdir = tmp_path_factory.mktemp("spiked") / "run"
    done = tiny_run.run(*tiny(workdir, **STEPS), "--inject=spike@30,nan@45")
    return workdir, done.stderr


def test_each_fault_is_gone_back_from_and_its_rows_are_left_out(spiked):
    workdir, said = spiked
    first, second = rewinds(workdir)
    assert first["onset"] == 31 and "loss" in first["reason"] and first["rewound_to"] == 20
    assert first["skips"] == [[160, 256]]  # twelve batches: all that went wrong, 20 to 31
    assert "nan" in second["reason"] and second["onset"] - second["rewound_to"] >= 8
    assert second["found"] == second["onset"]
    warnings = re.findall(r"loss spike from step (\d+) to (\d+).*going back to step (\d+)", said)
    assert len(warnings) == 2
    assert [line["step"] for line in tiny_run.metrics(workdir)] == list(range(1, 65))


def test_a_checkpoint_tells_of_its_rewinds(spiked):
    shown = tiny_run.run("checkpoint", "show", f"--workdir={spiked[0]}").stdout
    lines = [" ".join(line.split()) for line in shown.splitlines() if line.startswith("rewind")]
    assert len(lines) == 2
    assert lines[0].startswith("rewind from step 32 to 20: loss") and "96 rows skipped" in lines[0]


def test_the_end_is_that_of_a_run_told_of_the_same_rows_from_the_start(spiked, tiny, tmp_path):
    workdir, _ = spiked
    skips = tuple(map(tuple, rewinds(workdir)[-1]["skips"]))
    tiny_run.run(*tiny(tmp_path / "run", **STEPS, SKIP_ROWS=skips))
    assert tiny_run.saved(tmp_path / "run") == tiny_run.saved(workdir)
    losses = [[line["loss"] for line in tiny_run.metrics(w)] for w in (tmp_path / "run", workdir)]
    assert losses[0] == losses[1]
    assert rewinds(tmp_path / "run") == []


def test_killed_in_between_it_comes_to_the_same_verdicts(spiked, tiny, tmp_path):
    command = [*tiny(tmp_path / "run", **STEPS), "--inject=spike@30,nan@45"]
    for seed in range(2):
        tiny_run.kill_once(command, tmp_path / "run", "after some step", random.Random(seed))
    tiny_run.run(*command)
    tiny_run.assert_same_end(tmp_path / "run", spiked[0])
    found = [(r["onset"], r["rewound_to"], r["skips"]) for r in rewinds(tmp_path / "run")]
    assert found == [(r["onset"], r["rewound_to"], r["skips"]) for r in rewinds(spiked[0])]


def test_too_many_rewinds_end_the_run_with_the_reason(tiny, finished, tmp_path):
    done = tiny_run.run(
        *tiny(tmp_path / "run", **STEPS, MAX_REWINDS=0), "--inject=spike@30", code=1
    )
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert "loss spike from step 31" in line and "--gin.MAX_REWINDS" in line


def test_a_fault_that_there_is_not_is_refused(tiny, tmp_path):
    done = tiny_run.run(*tiny(tmp_path / "run"), "--inject=meteor@3", code=2)
    assert "'meteor@3'" in done.stderr and "spike@120,nan@200" in done.stderr


def test_a_damaged_checkpoint_is_no_place_to_go_back_to(tiny, finished, flip, tmp_path):
    workdir = tmp_path / "run"
    tiny_run.run(*tiny(workdir, **(STEPS | {"TRAIN_STEPS": 28})))
    # Step 20 is where the undisturbed run goes back to.
    files = [path for path in (workdir / "checkpoints/20").rglob("*") if path.is_file()]
    flip(max(files, key=lambda path: path.stat().st_size))
    done = tiny_run.run(*tiny(workdir, **(STEPS | {"TRAIN_STEPS": 34})), "--inject=spike@30")
    assert "the checkpoint of step 20 is not used" in done.stderr
    (record,) = rewinds(workdir)
    assert record["rewound_to"] < 20
