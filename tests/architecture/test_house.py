"""What keeps the house easy to live in: names, sizes, docstrings, and a test beside each module."""

import ast
import pathlib
import re

import pytest
import source_tree as tree

from palmscale import axes

MESH_CONSTANTS = {"REPLICA", "DATA", "MODEL"}
AXIS_NAMES = {value for name, value in vars(axes).items() if name.isupper()}
MESH_NAMES = {getattr(axes, name) for name in MESH_CONSTANTS}
NO_AXIS_LITERALS = {"model", "partition", "optim", "train", "infer"}
MIRRORED_FROM_LINES = 30
UNMIRRORED: set[str] = set()
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _docstrings(module):
    """The ids of the nodes that are docstrings."""
    return {
        id(node.body[0].value)
        for node in ast.walk(module)
        if isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }


def _axis_uses(path):
    """Yields the string literals of a file that name an axis where a layout is stated.

    A word such as "data" may mean something else; it names an axis when it is an argument of a
    call, or is assigned to a name, that speaks of axes.
    """
    speaks = re.compile(
        r"axis|axes|PartitionSpec|^P$|constrain|partition|shard|psum|pmean|all_gather",
        re.IGNORECASE,
    )
    for node in ast.walk(tree.parse(path)):
        if isinstance(node, ast.Call):
            called = (
                node.func.attr
                if isinstance(node.func, ast.Attribute)
                else getattr(node.func, "id", "")
            )
            values = (
                [*node.args, *(k.value for k in node.keywords)] if speaks.search(called) else []
            )
            values += [k.value for k in node.keywords if k.arg and speaks.search(k.arg)]
            for value in values:
                yield from (n for n in ast.walk(value) if isinstance(n, ast.Constant))
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if (
                any(speaks.search(ast.unparse(target)) for target in targets)
                and node.value is not None
            ):
                yield from (n for n in ast.walk(node.value) if isinstance(n, ast.Constant))


def test_the_model_spells_no_mesh_axis():
    wrong = []
    for path in tree.files():
        if tree.owner(path) != "model":
            continue
        module = tree.parse(path)
        docs = _docstrings(module)
        for node in ast.walk(module):
            if isinstance(node, ast.Constant) and node.value in MESH_NAMES and id(node) not in docs:
                wrong.append(f"{tree.name(path)}:{node.lineno}: {node.value!r}")
            if (
                isinstance(node, ast.Attribute)
                and node.attr in MESH_CONSTANTS
                and ast.unparse(node.value) == "axes"
            ):
                wrong.append(f"{tree.name(path)}:{node.lineno}: axes.{node.attr}")
        for line, imported in tree.all_imports(path):
            if (
                imported.startswith("palmscale.axes.")
                and imported.rpartition(".")[2] in MESH_CONSTANTS
            ):
                wrong.append(f"{tree.name(path)}:{line}: {imported}")
    assert not wrong, "\n".join(wrong)


def test_axis_names_are_spelled_in_axes_only():
    wrong = []
    for path in tree.files():
        if tree.owner(path) in NO_AXIS_LITERALS:
            found = {
                (n.lineno, n.value)
                for n in _axis_uses(path)
                if isinstance(n.value, str) and n.value in AXIS_NAMES
            }
            wrong += [
                f"{tree.name(path)}:{line}: {value!r}; write axes.*"
                for line, value in sorted(found)
            ]
    assert not wrong, "\n".join(wrong)


def test_no_drawer_for_everything():
    drawers = {"utils", "util", "common", "helpers", "helper", "misc"}
    assert not [
        tree.name(path)
        for path in tree.files()
        if drawers & set(tree.name(path).removesuffix(".py").split("/"))
    ]


def test_files_stay_under_400_lines_and_functions_under_80():
    wrong = []
    for path in tree.files():
        lines = len(path.read_text().splitlines())
        if lines > 400:
            wrong.append(f"{tree.name(path)}: {lines} lines")
        for node in ast.walk(tree.parse(path)):
            if isinstance(node, FUNCTIONS) and node.end_lineno - node.lineno >= 80:
                wrong.append(f"{tree.name(path)}:{node.lineno}: {node.name} has more than 80 lines")
    assert not wrong, "\n".join(wrong)


def _public(module):
    """Yields public top-level functions and classes, and the public methods of those classes."""
    for node in module.body:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                methods = (
                    n for n in node.body if isinstance(n, FUNCTIONS) and not n.name.startswith("_")
                )
                yield from ((f"{node.name}.{method.name}", method) for method in methods)


def test_everything_public_has_a_docstring():
    """A method may leave it to the class in the same file whose interface it fills."""
    wrong = []
    for path in tree.files():
        module = tree.parse(path)
        if module.body and ast.get_docstring(module) is None:
            wrong.append(f"{tree.name(path)}: the module")
        documented = {
            name.partition(".")[2] for name, node in _public(module) if ast.get_docstring(node)
        }
        documented = (documented - {""}) | {"setup"}
        for name, node in _public(module):
            if ast.get_docstring(node) is None and name.partition(".")[2] not in documented:
                wrong.append(f"{tree.name(path)}:{node.lineno}: {name}")
    assert not wrong, "\n".join(wrong)


def test_every_public_function_states_its_types():
    wrong = []
    for path in tree.files():
        for name, node in _public(tree.parse(path)):
            if isinstance(node, ast.ClassDef):
                continue
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            bare = [
                a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")
            ]
            if bare or node.returns is None:
                wrong.append(
                    f"{tree.name(path)}:{node.lineno}: {name} {' '.join(bare) or 'return'}"
                )
    assert not wrong, "\n".join(wrong)


def test_every_module_has_its_unit_test():
    wrong = []
    for path in tree.files():
        name = pathlib.PurePosixPath(tree.name(path))
        if (
            len(path.read_text().splitlines()) <= MIRRORED_FROM_LINES
            or tree.name(path) in UNMIRRORED
        ):
            continue
        if not (tree.CHECKOUT / "tests/unit" / name.with_name(f"test_{name.name}")).is_file():
            wrong.append(tree.name(path))
    assert not wrong, f"no tests/unit/.../test_*.py for: {' '.join(wrong)}"


def test_no_assert_is_mute():
    asserts = ((path, node) for path in tree.files() for node in ast.walk(tree.parse(path)))
    wrong = [
        f"{tree.name(p)}:{n.lineno}"
        for p, n in asserts
        if isinstance(n, ast.Assert) and n.msg is None
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('P("data", None)', ["data"]),
        ('nn.with_logical_partitioning(init, ("embed", "mlp"))', ["embed", "mlp"]),
        ('rules = {"data": 1}', []),
        ('axis_names = ("replica", "data")', ["replica", "data"]),
        ('open("data")', []),
        ('lax.psum(x, axis_name="model")', ["model"]),
    ],
)
def test_axis_literals_are_found_where_a_layout_is_stated(tmp_path, source, found):
    path = tmp_path / "x.py"
    path.write_text(source)
    assert list(dict.fromkeys(n.value for n in _axis_uses(path) if n.value in AXIS_NAMES)) == found
