import pytest
from stored_steps import store_steps

from palmscale.cli import main


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A workdir with two steps. Not to be written to."""
    return store_steps(tmp_path_factory.mktemp("runs") / "run", (6, 7), cursor={})


def run(*line):
    return main.run(["checkpoint", *map(str, line)])


def test_what_was_written_and_compared_is_told(saved, tmp_path, capsys):
    to = f"--output={tmp_path / 'a.safetensors'}"
    assert run("export", f"--workdir={saved}", "--to=safetensors", to, "--average=2") == 0
    wrote, compared = capsys.readouterr().out.splitlines()
    assert wrote.startswith(f"Wrote step 7 to {tmp_path}/a.safetensors: 15")
    assert wrote.endswith(" KiB.")
    assert compared == "Nothing was compared."


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--to=onnx"], "there is no export layout 'onnx'; known: hf, "),
        (["--to=hf", "--dtype=int3"], "dtype=int3 is not one of the layout hf"),
        (["--to=hf", "--average=3"], "average=3 is out of range: 2 verified"),
        (["--to=hf", "--average=0"], "0 is out of range; give 1 or more"),
    ],
)
def test_a_mistake_is_one_line(flags, said, saved, tmp_path, capsys):
    assert run("export", f"--workdir={saved}", f"--output={tmp_path / 'out'}", *flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and not list(tmp_path.iterdir())


def test_what_was_exported_is_imported_and_shown(saved, tmp_path, capsys):
    out, new = tmp_path / "out.safetensors", tmp_path / "new"
    assert run("export", f"--workdir={saved}", "--to=safetensors", f"--output={out}") == 0
    assert run("import", "--from=safetensors", f"--input={out}", f"--workdir={new}") == 0
    told = capsys.readouterr().out.splitlines()[-1]
    assert told == f"Imported 38,496 parameters and the vocabulary bytes (259 tokens) to {new}."
    assert run("verify", f"--workdir={new}") == 0 and "good" in capsys.readouterr().out
    assert run("show", f"--workdir={new}") == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["imported", "layout=safetensors", "source=out.safetensors"] in shown
    assert run("diff", new, saved) == 1  # in meta alone
    assert "All arrays are equal." in capsys.readouterr().out
