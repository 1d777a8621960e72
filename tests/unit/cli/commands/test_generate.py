import pytest

from palmscale.cli.commands import generate
from palmscale.errors import UserError


def test_a_prompt_file_is_read_as_it_is(tmp_path):
    (tmp_path / "prompt").write_bytes("a\r\nü ".encode())
    assert generate._read(str(tmp_path / "prompt")) == "a\r\nü "


def test_a_prompt_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match="--prompt_file=.*no: No such file"):
        generate._read(str(tmp_path / "no"))
    (tmp_path / "latin").write_bytes(b"abc\xff")
    with pytest.raises(UserError, match="latin is not UTF-8 at byte 3"):
        generate._read(str(tmp_path / "latin"))
