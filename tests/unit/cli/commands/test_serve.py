"""`palmscale serve`: where its key comes from, and what it needs."""

import importlib.util

import pytest

from palmscale.cli import main
from palmscale.cli.commands import serve
from palmscale.errors import UserError


def test_the_key_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv(serve.KEY_VARIABLE, raising=False)
    assert serve._api_key(None) is None
    monkeypatch.setenv(serve.KEY_VARIABLE, "of the environment")
    assert serve._api_key(None) == "of the environment"
    (tmp_path / "key").write_text("of the file\n")
    assert serve._api_key(str(tmp_path / "key")) == "of the file"


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff"])
def test_a_file_without_a_key_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    with pytest.raises(UserError, match="--api_key_file=") as caught:
        serve._api_key(str(tmp_path / "key"))
    assert "Errno" not in str(caught.value) and "codec" not in str(caught.value)


def test_without_the_extra_one_line_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main.run(["serve", "--workdir=x"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'palmscale[serve]'" in line


@pytest.mark.parametrize("flag", ["--port=70000", "--slots=0", "--context_length=x"])
def test_a_wrong_flag_is_one_line(flag, capsys):
    assert main.run(["serve", "--workdir=x", flag]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
