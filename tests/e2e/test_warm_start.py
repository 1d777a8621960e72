"""A run that begins with another run's parameters, by the command line."""

import json
import shutil

import pytest
import tiny_run

WARM = {"WARM_START": "@warm_start.WarmStart()", "TRAIN_STEPS": 2, "SAVE_EVERY_STEPS": 1}
# Notes the parameters and the optimizer's state before the first step.
PROBE = """
from palmscale.cli.training import Training
begun = Training.resume_or_begin
def note(self):
    state, cursor = begun(self)
    from palmscale.checkpoint.describe import described
    told = {{"params": described(state.params), "optimizer": described(state.optimizer_state)}}
    with open({out!r}, "a") as file:
        print(json.dumps([cursor.step, told]), file=file)
    return state, cursor
Training.resume_or_begin = note
"""


@pytest.fixture
def started(tiny, tmp_path):
    """Starts runs one after another; returns each one's outcome and what it began with."""

    def start(commands):
        out = tmp_path / "noted"
        out.unlink(missing_ok=True)
        answers = tiny_run.run_each(commands, PROBE.format(out=str(out)))
        lines = out.read_text().splitlines() if out.exists() else []
        return answers, [json.loads(line) for line in lines]

    return start


def test_the_first_step_has_the_other_runs_parameters_and_a_fresh_optimizer(
    tiny, finished, started, tmp_path
):
    arrays, _ = tiny_run.saved(finished)
    warm = WARM | {"warm_start.WarmStart.workdir": finished, "SEED": 5}
    mesh = {"DATA": 2, "MODEL_PARALLEL": 4}
    commands = [tiny(tmp_path / "cold", TRAIN_STEPS=1), tiny(tmp_path / "warm", **warm, **mesh)]
    answers, ((_, cold), (step, noted)) = started(commands)
    assert [answer.returncode for answer in answers] == [0, 0], answers[1].stderr
    assert step == 0 and noted["params"] == arrays["params"] != cold["params"]
    counts = [name for name in noted["optimizer"] if name.endswith("count")]
    assert counts and all(noted["optimizer"][name] == cold["optimizer"][name] for name in counts)
    assert "from step 16 of" in answers[1].stderr
    meta = json.loads((tmp_path / "warm/checkpoints/2/meta.json").read_text())
    assert meta["warm_start"]["step"] == 16
    assert meta["warm_start"]["workdir"] == str(finished)
    shown = tiny_run.run("checkpoint", "show", f"--workdir={tmp_path}/warm").stdout
    assert f"workdir={finished}" in next(x for x in shown.splitlines() if "warm start" in x)
    # It goes on without the other run, and still tells of it.
    (again,), ((step, _),) = started(
        [tiny(tmp_path / "warm", **(warm | {"TRAIN_STEPS": 3}), **mesh)]
    )
    assert again.returncode == 0 and step == 2 and "Warm start" not in again.stderr
    meta = json.loads((tmp_path / "warm/checkpoints/3/meta.json").read_text())
    assert meta["warm_start"]["step"] == 16


def test_what_does_not_fit_is_named_in_one_line_and_can_be_named_in_gin(
    tiny, finished, started, tmp_path
):
    warm = WARM | {"warm_start.WarmStart.workdir": finished}
    wider = warm | {"palm.PaLM.dim_head": 4}
    refused = {
        "is float32[": wider,
        "matches no parameter": warm | {"warm_start.WarmStart.rename": "{'old/*': 'new/*'}"},
        "has no checkpoint": warm | {"warm_start.WarmStart.workdir": tmp_path / "none"},
        "no verified checkpoint of step 15": warm | {"warm_start.WarmStart.checkpoint": 15},
    }
    commands = [tiny(tmp_path / str(n), **values) for n, values in enumerate(refused.values())]
    answers, _ = started(commands)
    for words, answer in zip(refused, answers, strict=True):
        (line,) = [line for line in answer.stderr.splitlines() if "palmscale: error" in line]
        assert answer.returncode == 2 and words in line, answer.stderr


def test_a_damaged_checkpoint_is_passed_over(tiny, finished, flip, started, tmp_path):
    other = shutil.copytree(finished, tmp_path / "other")
    flip(other / "checkpoints/16/meta.json")
    command = tiny(tmp_path / "run", **WARM, **{"warm_start.WarmStart.workdir": other})
    (answer,), ((_, noted),) = started([command])
    assert answer.returncode == 0, answer.stderr
    assert noted["params"] == tiny_run.saved(finished, 12)[0]["params"]
