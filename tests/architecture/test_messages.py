"""Below the command line nothing is named by its macro or flag: the library names fields."""

import argparse
import ast
import re

import pytest
import source_tree as tree

from palmscale.cli import main
from palmscale.cli.config import moved

MACRO = re.compile(r"^([A-Z][A-Z0-9_]*) =", re.MULTILINE)


def macros():
    """Patterns of the macros of palmscale's own gin files and of their former names."""
    texts = [path.read_text() for path in (tree.CHECKOUT / "configs").rglob("*.gin")]
    names = {name for text in texts for name in MACRO.findall(text)} | moved.MACROS.keys()
    # `DATA` and the like are words, too: they are macros where a value follows.
    return {rf"{name}(?![\w-])" if "_" in name else f"{name}=" for name in names}


def flags():
    """Patterns of the flags of all commands, except those that every program has."""
    pending, found = [main.parser()], set()
    while pending:
        for action in pending.pop()._actions:
            found |= {flag for flag in action.option_strings if re.fullmatch(r"--\w[\w-]*", flag)}
            if isinstance(action, argparse._SubParsersAction):
                pending += action.choices.values()
    return {rf"{flag}(?![\w-])" for flag in found - {"--help", "--version"}} | {r"--gin\."}


def messages(path):
    """Yields the line and text of every string literal that is no docstring."""
    module = tree.parse(path)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(module)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(module):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and id(node) not in docstrings:
            yield node.lineno, node.value


@pytest.mark.parametrize("named", [macros, flags])
def test_no_message_below_the_command_line_names(named):
    spoken = re.compile(rf"(?<![\w-])({'|'.join(sorted(named()))})")
    wrong = [
        f"{tree.name(path)}:{line}: {found[0]}"
        for path in tree.files()
        if tree.owner(path) not in ("cli", "__main__")
        for line, text in messages(path)
        if (found := spoken.search(text))
    ]
    assert not wrong, "\n".join(wrong)
