"""A stored name is that of a class of palmscale's, or of a module that the user chose."""

import pathlib
import sys
import types

import pytest
from flax import linen as nn
from unknown_code import CALLABLES

from palmscale import PaLM
from palmscale.errors import UserError
from palmscale.run.named_classes import find, import_modules, is_among

SOURCE = """
import dataclasses
from subprocess import Popen
from flax import linen as nn
from flax.linen import Dense

class Model(nn.Module):
    class Inner(nn.Module):
        pass

@dataclasses.dataclass(frozen=True)
class Settings:
    size: int

class Plain:
    pass

def __getattr__(name):
    raise AssertionError(f"looked up {name}")
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The name of a user's own module, which no one has imported yet."""
    name = f"own_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_palmscales_own_classes_have_the_names_of_any_version():
    assert find("PaLM", base=nn.Module) is PaLM
    assert find("palmscale.somewhere.else:PaLM") is PaLM


@pytest.mark.parametrize("name", CALLABLES)
def test_nothing_else_that_is_installed_is_found(name):
    before = set(sys.modules)
    with pytest.raises(UserError, match="the checkpoint names"):
        find(name, base=nn.Module)
    assert "antigravity" not in set(sys.modules) - before


def test_a_users_module_is_imported_by_the_user_alone(own):
    with pytest.raises(UserError, match=f"if you trust {own}, choose it: modules={own}"):
        find(f"{own}:Model")
    assert own not in sys.modules
    import_modules([own])
    found = find(f"{own}:Model", [own], nn.Module)
    assert found.__name__ == "Model"
    assert find(f"{own}:Model.Inner", [own], nn.Module) is found.Inner
    # Once the program has imported the user's file, it need not be named.
    assert find(f"{own}:Model", base=nn.Module) is found


@pytest.mark.parametrize("name", ["Popen", "Dense", "Absent", "Plain", "Settings", "nn.Dense", ""])
def test_only_a_linen_module_that_it_defines_is_a_model(own, name):
    import_modules([own])
    with pytest.raises(UserError, match="the checkpoint names"):
        find(f"{own}:{name}", [own], nn.Module)
    if name == "Settings":
        assert find(f"{own}:{name}", [own]).__name__ == name


def test_a_class_of_an_installed_package_needs_to_be_chosen(own, monkeypatch):
    import_modules([own])
    module = sys.modules[own]
    place = pathlib.Path("/x/site-packages") / f"{own}.py"
    monkeypatch.setattr(module, "__file__", str(place))
    with pytest.raises(UserError, match=f"choose it: modules={own}"):
        find(f"{own}:Model")
    assert find(f"{own}:Model", [own]) is module.Model


def test_a_module_of_any_name_needs_to_be_chosen(own, monkeypatch):
    import_modules([own])
    model = type("Model", (nn.Module,), {"__module__": "an-installed one"})
    module = types.ModuleType("an-installed one")
    module.Model = model
    monkeypatch.setitem(sys.modules, "an-installed one", module)
    with pytest.raises(UserError, match="choose it: modules=an-installed one"):
        find("an-installed one:Model")
    assert find("an-installed one:Model", ["an-installed one"]) is model


def test_a_class_of_the_program_itself_may_be_named(monkeypatch):
    main = types.ModuleType("__main__")
    main.Model = type("Model", (nn.Module,), {"__module__": "__main__"})
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert find("__main__:Model") is main.Model


@pytest.mark.parametrize(("source", "error"), [(None, "ModuleNotFoundError"), ("1 / 0", "Zero")])
def test_a_module_that_cannot_be_imported_is_named(own, tmp_path, source, error):
    if source is not None:
        (tmp_path / f"{own}.py").write_text(source)
    name = own if source is not None else f"{own}_absent"
    with pytest.raises(UserError, match=f"modules={name} cannot be imported .{error}"):
        import_modules([name])


def test_a_module_is_chosen_with_what_is_inside_it():
    assert is_among("a.b", ["a"]) and is_among("a", ["a"])
    assert not is_among("ab", ["a"]) and not is_among("a", ["a.b"]) and not is_among("a", [])
