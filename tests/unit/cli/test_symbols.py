import pathlib

import pytest

from palmscale.cli.symbols import import_symbol, resolve
from palmscale.errors import UserError


def test_import_binds_the_first_package_unless_whole():
    assert import_symbol("os.path", whole=False, place="x.gin:1").__name__ == "os"
    assert import_symbol("xml.dom", whole=True, place="x.gin:1").__name__ == "xml.dom"


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("palmscale.clii", r"x.gin:1: cannot import palmscale.clii .*did you mean cli\?"),
        ("pathlib.Path", "gin imports modules only - write import pathlib and pathlib.Path"),
        ("no_such_package.part", "cannot import no_such_package.part"),
    ],
)
def test_a_failed_import_says_what_to_write(module, message):
    with pytest.raises(UserError, match=message):
        import_symbol(module, whole=True, place="x.gin:1")


def test_resolve_follows_attributes():
    assert resolve("pathlib.Path.exists", {"pathlib": pathlib}, "x.gin:1") is pathlib.Path.exists


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("pathlib.Paht", r"x.gin:7: unknown name pathlib.Paht; did you mean pathlib.Path\?"),
        ("pathlib.Path.exist", r"did you mean pathlib.Path.exists\?"),
        ("Path", r"unknown name Path; did you mean pathlib.Path\?"),
        ("pathlib.__name__", "is a str - a function or class is needed"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(selector, message):
    with pytest.raises(UserError, match=message):
        resolve(selector, {"pathlib": pathlib}, "x.gin:7")


def test_nothing_imported_says_so():
    with pytest.raises(UserError, match="import its module"):
        resolve("palm.PaLM", {}, "x.gin:7")
