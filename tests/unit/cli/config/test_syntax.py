"""gin's syntax: statements as written, and a mistake is one line with its place."""

import pytest

from palmscale.cli.config.statements import Macro
from palmscale.cli.config.syntax import binding, parse
from palmscale.errors import UserError


def test_references_and_macros_stay_as_written():
    (statement,) = parse("A.b = (@s/C(), %D, 'x')", "a.gin")
    assert repr(statement.value) == "(@s/C(), %D, 'x')"


SEPARATORS = ["\f", "\v", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\xa0", "\u200b"]


@pytest.mark.parametrize("space", SEPARATORS)
def test_only_newlines_end_a_line(space):
    statements = list(parse(f"# a{space}b\nA = 'x{space}y'\nB = 2 # {space}\n", "a.gin"))
    assert [s.location.line_num for s in statements] == [2, 3]
    assert [s.value for s in statements] == [f"x{space}y", 2]


@pytest.mark.parametrize("space", SEPARATORS)
@pytest.mark.parametrize("text", ["A = 1{}\nB = 2\n", "A = 1\n{}\nB = 2\n", "A = 1{}B = 2\n"])
def test_no_other_separator_loses_a_setting(space, text):
    """It is either no more than a space or named; Python reads a form feed as a space."""
    try:
        names = [statement.selector for statement in parse(text.format(space), "a.gin")]
    except UserError as error:
        assert f"delete U+{ord(space):04X}" in str(error)
    else:
        assert names == ["A", "B"] and space == "\f"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A = 1\nB 2\n", "a.gin:2: cannot read 'B 2': Couldn't parse statement"),
        ("A = 1\n\\", "a.gin:2: cannot read '\\\\': Unexpected token"),
        ("A = (1,", "a.gin:2: a bracket or a quotation mark is not closed"),
        ("A = 1\\\n", "a.gin:2: a bracket or a quotation mark is not closed, or the last line"),
        ("B = 1\nA = " + "[" * 2000 + "]" * 2000, "a.gin:2: brackets are nested too deeply"),
        ("A = " + "{1: " * 99 + "2" + "}" * 99, "a.gin:1: brackets are nested too deeply"),
        ("A = {[1]: 2}", "a.gin:1: unhashable type: 'list'; write a number, a string"),
        ("A = 0x" + "f" * 9999, "a.gin:1: an integer has 39996 bits; use at most 63"),
        ("A = (1, 1e999)", "a.gin:1: a number is larger than any float"),
        ("A = {'\\ud800': 1}", "a.gin:1: '\\ud800' holds a character that is not text"),
        ("A = 'a\\0'", "a.gin:1: 'a\\x00' holds a character that is not text"),
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
