"""The package's files as syntax trees, for the architecture tests."""

import ast
import functools
import pathlib
from collections.abc import Iterable, Iterator

CHECKOUT = pathlib.Path(__file__).parents[2]
PACKAGE = CHECKOUT / "palmscale"


def files() -> list[pathlib.Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name(path: pathlib.Path) -> str:
    """`model/palm.py`."""
    return path.relative_to(PACKAGE).as_posix()


def owner(path: pathlib.Path) -> str:
    """The package or top module that a file belongs to: `model`, `axes`, `__init__`."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def parse(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(nodes: Iterable[ast.AST]) -> Iterator[tuple[int, str]]:
    """Yields the line and full dotted name of everything imported: `from a import b` is `a.b`."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (
                (node.lineno, f"{'.' * node.level}{node.module}.{alias.name}")
                for alias in node.names
            )


def all_imports(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    return imports(ast.walk(parse(path)))


def outside_functions(path: pathlib.Path) -> Iterator[ast.AST]:
    """Yields what runs when the module is imported."""
    pending: list[ast.AST] = list(parse(path).body)
    while pending:
        node = pending.pop()
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield node
            pending.extend(ast.iter_child_nodes(node))
