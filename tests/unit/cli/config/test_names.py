import sys

import pytest

from palmscale.cli.config.names import canonical, import_module, path, resolve
from palmscale.errors import UserError
from palmscale.model.palm import PaLM
from palmscale.run.run import Run

PATHS = {"pathlib": "pathlib", "dom": "xml.dom"}


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("palmscale.clii", r"x.gin:1: cannot import palmscale.clii.*did you mean cli\?"),
        ("pathlib.Path", "gin imports modules only: write import pathlib and pathlib.Path"),
        ("no_such_package.part", "cannot import no_such_package.part"),
    ],
)
def test_a_failed_import_says_what_to_write(module, message):
    with pytest.raises(UserError, match=message):
        import_module(module, "x.gin:1")


def test_a_module_that_raises_is_named_with_what_it_raised(tmp_path, monkeypatch):
    (tmp_path / "raises_at_once.py").write_text("raise ValueError('boom')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="x.gin:2: cannot import raises_at_once: ValueError: boom"):
        import_module("raises_at_once", "x.gin:2")


def test_palmscales_own_names_need_no_import():
    found = resolve("PaLM", {}, "x.gin:1")
    assert (found.name, found.module, found.target) == ("PaLM", "palmscale.model.palm", PaLM)


@pytest.mark.parametrize(
    ("selector", "imports"),
    [
        ("palm.PaLM", {"palm": "palmscale.model.palm"}),
        ("palmscale.model.palm.PaLM", {"palmscale": "palmscale"}),
    ],
)
def test_a_present_path_is_the_same_class_by_its_short_name(selector, imports):
    found = resolve(selector, imports, "x.gin:1")
    assert (found.name, found.target) == ("PaLM", PaLM)
    assert canonical(selector, imports) == "PaLM"


def test_a_former_path_is_the_class_of_today_and_imports_nothing():
    import_module("palmscale.cli.run", "x.gin:1")
    assert "palmscale.cli.run" not in sys.modules
    assert resolve("run.Run", {"run": "palmscale.cli.run"}, "x.gin:1").target is Run
    with pytest.raises(UserError, match=r"unknown name run.Runn; did you mean run.Run\?"):
        resolve("run.Runn", {"run": "palmscale.cli.run"}, "x.gin:1")


def test_a_name_that_a_file_imports_comes_before_a_short_name():
    assert path("PaLM.dim", {"PaLM": "my.module"}) == "my.module.dim"
    assert path("nothing", {}) is None


def test_a_users_own_name_is_its_module_and_attributes():
    found = resolve("pathlib.Path.exists", PATHS, "x.gin:1")
    assert (found.name, found.module, found.attribute) == (
        "pathlib.Path.exists",
        "pathlib",
        "Path.exists",
    )
    assert resolve("dom.Node", PATHS, "x.gin:1").module == "xml.dom"


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("pathlib.Paht", r"x.gin:7: unknown name pathlib.Paht; did you mean pathlib.Path\?"),
        ("pathlib.Path.exist", r"did you mean pathlib.Path.exists\?"),
        ("Path", r"unknown name Path; did you mean pathlib.Path\?"),
        ("Palm", r"unknown name Palm; did you mean PaLM\?"),
        ("PaLM.forward", "unknown name PaLM.forward"),
        ("pathlib.__name__", "is a str; a function or class is needed"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(selector, message):
    with pytest.raises(UserError, match=message):
        resolve(selector, PATHS, "x.gin:7")


def test_a_name_of_a_module_that_is_not_imported_is_answered_by_the_import(tmp_path, monkeypatch):
    (tmp_path / "their_models.py").write_text("class GPT:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match="unknown name their_models.GPT; write `import their_mod"):
        resolve("their_models.GPT", {}, "run.gin:3")
    with pytest.raises(UserError, match="unknown name no_models.GPT; known: "):
        resolve("no_models.GPT", {}, "run.gin:3")
