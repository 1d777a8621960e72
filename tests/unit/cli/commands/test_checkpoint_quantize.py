import pytest
from stored_steps import store_steps

from palmscale.cli import main


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A workdir with one step. Not to be written to."""
    return store_steps(tmp_path_factory.mktemp("runs") / "run", [7], cursor={"row": 5})


def run(*line):
    return main.run(["checkpoint", *map(str, line)])


def test_the_copy_is_told_verified_and_shown(saved, tmp_path, capsys):
    to = f"--to={tmp_path / 'int8'}"
    assert run("quantize", f"--workdir={saved}", to) == 0
    assert f"Wrote step 7 to {tmp_path}/int8: int8 weights, " in capsys.readouterr().out
    copy = f"--workdir={tmp_path / 'int8'}"
    assert run("verify", copy) == 0 and "good" in capsys.readouterr().out
    assert run("show", copy) == 0
    shown = capsys.readouterr().out
    assert shown.count("/qvalue") == 7 and '{"row": 5}' in shown
    assert ["weights", "int8"] in [line.split() for line in shown.splitlines()]
    assert run("quantize", f"--workdir={saved}", to) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("has checkpoints already; choose a folder that has none.")
