import argparse
import io
import types

import pytest

from palmscale.cli.commands import lines_flags
from palmscale.cli.commands.lines_flags import read_text
from palmscale.errors import UserError


def test_a_prompt_file_is_read_as_it_is(tmp_path):
    (tmp_path / "prompt").write_bytes("a\r\nü ".encode())
    assert read_text("prompt_file", str(tmp_path / "prompt")) == "a\r\nü "


def test_a_minus_is_standard_input(monkeypatch):
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO("ü\r".encode())))
    assert read_text("prompt_file", "-") == "ü\r"


def test_a_prompt_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match="--prompt_file=.*no: No such file"):
        read_text("prompt_file", str(tmp_path / "no"))
    (tmp_path / "latin").write_bytes(b"abc\xff")
    with pytest.raises(UserError, match="latin is not UTF-8 at byte 3"):
        read_text("prompt_file", str(tmp_path / "latin"))


def test_a_terminal_is_shown_no_control_characters(capsys, monkeypatch):
    lines_flags.write_text("a\x1b[2J\n")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    lines_flags.write_text("a\x1b[2J\n")
    assert capsys.readouterr().out == "a\x1b[2J\na\\x1b[2J\n"


def test_the_lines_come_from_a_file_or_standard_input():
    parser = argparse.ArgumentParser()
    lines_flags.add_lines(parser, parser.add_mutually_exclusive_group(), "{}")
    args = parser.parse_args(["--jsonl=-", "--out=a.jsonl"])
    assert args.jsonl == "-" and args.out == "a.jsonl"
