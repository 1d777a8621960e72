import dataclasses

import pytest
from outgoing_model import MODEL, outgoing

from palmscale.cli import main
from palmscale.cli.commands import checkpoint_import
from palmscale.interop import hf
from palmscale.interop.layouts import ImportLayout, Options


@pytest.fixture
def folder(tmp_path):
    hf.write(outgoing(), tmp_path / "hf")
    return tmp_path / "hf"


def run(*line):
    return main.run(["checkpoint", "import", *map(str, line)])


def test_every_option_of_a_layout_is_a_flag():
    fields = {field.name for field in dataclasses.fields(Options)}
    assert set(checkpoint_import._OPTIONS) == fields


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--from=hf", "--heads=2"], "hf does not take the option heads; it takes: none"),
        (["--from=hf", "--dim_head=x"], "x is not a number of type int"),
        (["--from=gguf"], "there is no import layout 'gguf'"),
        (["--from=hf", "--vocabulary=absent.model"], "absent.model"),
        (["--from=safetensors"], "cannot be read (Is a directory)"),
    ],
)
def test_a_mistake_is_one_line(flags, said, folder, tmp_path, capsys):
    assert run(f"--input={folder}", f"--workdir={tmp_path / 'run'}", *flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and not (tmp_path / "run").exists()


def test_what_the_text_decided_is_told(folder, tmp_path, capsys, monkeypatch):
    def two(path, options):
        (found,) = hf.read(path, options)
        choices = (Options(norm_scale_offset=0.0), Options(norm_scale_offset=1.0))
        return [
            dataclasses.replace(
                found,
                model=dataclasses.replace(
                    MODEL, padded_tokens=None, norm_scale_offset=choice.norm_scale_offset
                ),
                choice=choice,
            )
            for choice in choices
        ]

    monkeypatch.setattr(hf, "IMPORT", ImportLayout(read=two))
    (tmp_path / "a.txt").write_text("some text\n" * 20)
    flags = ["--from=hf", f"--input={folder}", f"--workdir={tmp_path / 'run'}"]
    assert run(*flags) == 2
    assert "give text that decides: text_files=PATTERN" in capsys.readouterr().err
    assert run(*flags, f"--text_files={tmp_path}/*.txt") == 0
    assert "The text decided for --norm_scale_offset=" in capsys.readouterr().out
