import pytest

from palmscale.cli.config import statements
from palmscale.cli.config.statements import REQUIRED, Binding, Macro, Statements
from palmscale.cli.config.types import Reference
from palmscale.errors import UserError


def run(corpus=None, seed=0):
    return corpus, seed


def corpus(files=()):
    return files


def _statements(bindings, macros=()):
    """`bindings` are (scope, target, parameter, value)."""
    said = Statements()
    for name, value in dict(macros).items():
        said.add(Binding(name, value, "a.gin:1"))
    for number, (scope, target, name, value) in enumerate(bindings, 2):
        binding = Binding(name, value, f"a.gin:{number}", target, name)
        said.add(binding, f"{scope}/" if scope else "")
    return said


def _made(target, name=None):
    return Reference(name or target.__name__, target, True)


def test_macros_are_replaced_wherever_they_stand_and_required_is_none_of_them():
    said = _statements([], {"A": (1, Macro("B")), "B": {"x": 2}})
    value = [Macro("A"), {"y": Macro("B")}, Macro(REQUIRED)]
    assert said.expand(value) == [(1, {"x": 2}), {"y": {"x": 2}}, Macro(REQUIRED)]
    assert said.macros_in(value) == {"A", "B"}
    assert repr(Macro("A")) == "%A"


def test_a_macro_defined_by_itself_is_refused():
    with pytest.raises(UserError, match="a.gin:1: A is defined by itself"):
        _statements([], {"A": Macro("B"), "B": (Macro("A"),)}).expand(Macro("A"))


def test_a_reference_is_called_in_its_own_scope_else_in_that_of_its_holder_or_macro():
    said = _statements([], {"M": _made(corpus)})
    value = [_made(corpus, "own/corpus"), (_made(corpus),), {"key": Macro("M")}]
    assert [scope for _, scope in said.references(value, "outer")] == ["own", "outer", "M"]


def test_inner_scopes_win():
    said = _statements([("", corpus, "files", 1), ("a", corpus, "files", 2)])
    found = {scope: said.bound_in(scope, corpus)["files"].value for scope in ("", "a", "a/b", "b")}
    assert found == {"": 1, "a": 2, "a/b": 2, "b": 1}
    assert statements.outer_scopes("a/b") == ["", "a", "a/b"]


def test_what_is_made_is_reached_from_what_nothing_refers_to():
    said = _statements(
        [("", run, "corpus", _made(corpus, "a/corpus")), ("b", corpus, "files", ("x",))]
    )
    assert said.reached() == [("", run), ("a", corpus)]


def test_what_only_the_command_line_mentions_is_not_made():
    said = _statements([("", run, "seed", 1)])
    said.add(Binding("corpus.files", (), "--gin.corpus.files=()", corpus, "files"))
    assert said.reached() == [("", run)]


def test_what_only_a_replaced_line_refers_to_is_not_made_and_the_new_line_is_told():
    said = _statements(
        [
            ("", run, "corpus", Macro("CORPUS")),
            ("", corpus, "files", Macro("FILES")),
            ("", run, "corpus", None),
        ],
        {"CORPUS": _made(corpus), "FILES": ("x",)},
    )
    assert said.reached() == [("", run)]
    assert said.replacement(Macro("FILES")).place == "a.gin:4"
    assert said.replacement(run) is None
