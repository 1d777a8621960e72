import pytest

from palmscale.cli import main
from palmscale.cli.parser import parse
from palmscale.errors import UserError


def test_lines_are_required():
    with pytest.raises(UserError, match="are required: --jsonl"):
        parse(main.parser(), ["score", "--workdir=x"])
