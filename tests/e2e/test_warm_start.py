"""A run that begins with another run's parameters, by the command line."""

import json
import shutil

import tiny_run

WARM = {"WARM_START": "@warm_start.WarmStart()", "TRAIN_STEPS": 2, "SAVE_EVERY_STEPS": 1}
# Too little to change a parameter: the first step saves what it was given.
STILL = {"LEARNING_RATE": 1e-30}


def test_the_first_step_has_the_other_runs_parameters_and_a_fresh_optimizer(
    tiny, finished, tmp_path
):
    arrays, _ = tiny_run.saved(finished)
    warm = WARM | STILL | {"warm_start.WarmStart.workdir": finished, "SEED": 5}
    mesh = {"DATA": 2, "MODEL_PARALLEL": 4}
    answers = tiny_run.run_each(
        [
            tiny(tmp_path / "cold", **STILL, TRAIN_STEPS=1),
            tiny(tmp_path / "warm", **warm, **mesh),
            # It goes on without the other run, and still tells of it.
            tiny(tmp_path / "warm", **(warm | {"TRAIN_STEPS": 3}), **mesh),
            ["checkpoint", "show", f"--workdir={tmp_path}/warm"],
        ]
    )
    assert [answer.returncode for answer in answers] == [0] * 4, answers
    cold, first = (tiny_run.saved(tmp_path / name, 1)[0] for name in ("cold", "warm"))
    assert first["params"] == arrays["params"] != cold["params"]
    counts = [name for name in first["optimizer"] if name.endswith(("count", "step"))]
    assert len(counts) > 1
    assert all(first["optimizer"][name] == cold["optimizer"][name] for name in counts)
    assert "from step 16 of" in answers[1].stderr
    assert "Warm start" not in answers[2].stderr and "Resuming after step 2" in answers[2].stderr
    for step in (2, 3):
        meta = json.loads((tmp_path / f"warm/checkpoints/{step}/meta.json").read_text())
        assert meta["warm_start"]["step"] == 16
        assert meta["warm_start"]["workdir"] == str(finished)
    shown = answers[3].stdout.splitlines()
    assert f"workdir={finished}" in next(line for line in shown if "warm start" in line)


def test_what_does_not_fit_is_named_in_one_line_and_can_be_named_in_gin(tiny, finished, tmp_path):
    warm = WARM | {"warm_start.WarmStart.workdir": finished}
    wider = warm | {"PaLM.dim_head": 4}
    refused = {
        "is float32[": wider,
        "matches no parameter": warm | {"warm_start.WarmStart.rename": "{'old/*': 'new/*'}"},
        "has no checkpoint": warm | {"warm_start.WarmStart.workdir": tmp_path / "none"},
        "no verified checkpoint of step 15": warm | {"warm_start.WarmStart.checkpoint": 15},
    }
    commands = [tiny(tmp_path / str(n), **values) for n, values in enumerate(refused.values())]
    answers = tiny_run.run_each(commands)
    for words, answer in zip(refused, answers, strict=True):
        (line,) = [line for line in answer.stderr.splitlines() if "palmscale: error" in line]
        assert answer.returncode == 2 and words in line, answer.stderr


def test_a_damaged_checkpoint_is_passed_over(tiny, finished, flip, tmp_path):
    other = shutil.copytree(finished, tmp_path / "other")
    flip(other / "checkpoints/16/meta.json")
    command = tiny(tmp_path / "run", **WARM, **STILL, **{"warm_start.WarmStart.workdir": other})
    tiny_run.run(*command)
    assert (
        tiny_run.saved(tmp_path / "run", 1)[0]["params"]
        == tiny_run.saved(finished, 12)[0]["params"]
    )
