"""Trees of arrays by path: what a person, a pattern and a checkpoint name them by."""

from collections.abc import Callable, Mapping
from typing import Any

import jax


def named_leaves(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> dict[str, Any]:
    """Returns the leaves of `tree` by path, such as 'layers/mlp/kernel', in tree order."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
    }


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tree of dicts whose leaves have these paths: the inverse of `named_leaves`."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *folders, name = path.split("/")
        branch = tree
        for folder in folders:
            branch = branch.setdefault(folder, {})
        branch[name] = leaf
    return tree


def filled(template: Any, leaves: Mapping[str, Any]) -> Any:
    """Returns a tree like `template` whose leaves are those of the same paths."""
    paths = named_leaves(template)
    return jax.tree.unflatten(jax.tree.structure(template), [leaves[path] for path in paths])
