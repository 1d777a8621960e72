"""What `palmscale eval` does without gin files; a whole run is in test_train.py."""

import dataclasses

import pytest
from small_run import on_text

import palmscale
from palmscale.cli import main


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Of a run that was built in Python, which has no config.gin."""
    folder = tmp_path_factory.mktemp("python")
    run = on_text(folder)
    training = dataclasses.replace(run.training, steps=2)
    return palmscale.train(dataclasses.replace(run, training=training), folder / "run").workdir


def test_a_run_that_was_built_in_python_is_evaluated_as_its_checkpoint_describes_it(
    workdir, capsys
):
    assert main.run(["eval", f"--workdir={workdir}"]) == 0
    first, *values = capsys.readouterr().out.splitlines()
    assert first == "step 2" and values[0].startswith("eval_loss ")


def test_it_cannot_be_changed_by_gin_settings(workdir, capsys):
    assert main.run(["eval", f"--workdir={workdir}", "--gin.EVAL_SEQUENCES=3"]) == 2
    assert "--gin.EVAL_SEQUENCES=3 needs gin files" in capsys.readouterr().err


def test_what_is_no_run_says_what_is_missing(tmp_path, capsys):
    assert main.run(["eval", f"--workdir={tmp_path}"]) == 2
    assert "there is no run in" in capsys.readouterr().err
