"""gin's syntax: statements as written, and a mistake is one line with its place."""

import pytest

from palmscale.cli.config.statements import Macro
from palmscale.cli.config.syntax import binding, parse
from palmscale.errors import UserError


def test_references_and_macros_stay_as_written():
    (statement,) = parse("A.b = (@s/C(), %D, 'x')", "a.gin")
    assert repr(statement.value) == "(@s/C(), %D, 'x')"


@pytest.mark.parametrize("space", ["\f", "\u2028", "\x85"])
def test_only_newlines_end_a_line(space):
    statements = list(parse(f"# a{space}b\nA = 1\nB = 2\n", "a.gin"))
    assert [s.location.line_num for s in statements] == [2, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A = 1\nB 2\n", "a.gin:2: cannot read 'B 2': Couldn't parse statement"),
        ("A = (1,", "a.gin:2: a bracket or a quotation mark is not closed."),
        ("A = " + "[" * 2000 + "]" * 2000, "a.gin: brackets are nested too deeply"),
    ],
)
def test_a_mistake_is_one_line(text, message):
    with pytest.raises(UserError) as error:
        list(parse(text, "a.gin"))
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "value", [1, (1,), "a" * 200, ("a" * 60, "b" * 60), ["a" * 120], {"a" * 60: Macro("B" * 60)}]
)
def test_what_is_written_reads_back(value):
    text = binding("A.b", value)
    (statement,) = parse(text, "a.gin")
    assert statement.value == value
    assert ("\n" in text) == (len(repr(value)) > 90 and not isinstance(value, str))
