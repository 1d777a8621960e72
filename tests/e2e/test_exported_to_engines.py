"""A trained run leaves for other engines through the command, which checks what it wrote."""

import re

import pytest

from palmscale.cli import main
from palmscale.interop import hf


def export(workdir, output, *flags):
    command = ["checkpoint", "export", f"--workdir={workdir}", f"--output={output}", *flags]
    return main.run(command)


@pytest.mark.parametrize(
    "flags",
    [["--to=hf"], ["--to=gguf"], ["--to=gguf", "--dtype=q4_0"], ["--to=stablehlo"]],
    ids="-".join,
)
def test_the_command_says_how_far_logits_differ(flags, finished, tmp_path, capsys):
    assert export(finished, tmp_path / "x.gguf", *flags) == 0
    wrote, compared = capsys.readouterr().out.splitlines()
    assert wrote.startswith("Wrote step ")
    assert re.search(r"logits of \d+ tokens.* differ from the model's by at most \d", compared)
    assert (tmp_path / "x.gguf").exists()


@pytest.mark.parametrize("layout", ["hf", "gguf"])
def test_a_wrong_export_ends_with_code_1_and_leaves_nothing(
    layout, finished, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(hf, "_plain", lambda model, scale: scale)  # norm scales without offset
    assert export(finished, tmp_path / "out", f"--to={layout}") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "logits computed from what was written differ from the model's by up to" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["q8_0", "q4_0"])
def test_a_type_that_a_layout_does_not_have_is_refused(dtype, finished, tmp_path, capsys):
    assert export(finished, tmp_path / "out", "--to=hf", f"--dtype={dtype}") == 2
    assert "not one of the layout hf" in capsys.readouterr().err
