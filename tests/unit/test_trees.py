"""Trees by path: named, nested again, and filled."""

import pytest

from palmscale.trees import filled, named_leaves, nested

TREE = {"a": {"b": 1, "c": (2, 3)}, "d": 4}


def test_leaves_are_named_by_their_paths_in_tree_order():
    assert named_leaves(TREE) == {"a/b": 1, "a/c/0": 2, "a/c/1": 3, "d": 4}
    whole = named_leaves(TREE, is_leaf=lambda node: isinstance(node, tuple))
    assert whole == {"a/b": 1, "a/c": (2, 3), "d": 4}


def test_a_tree_of_dicts_comes_back_from_its_leaves():
    tree = {"a": {"b": 1, "c": 2}, "d": 4}
    assert nested(named_leaves(tree)) == tree and nested({}) == {}


def test_a_tree_is_filled_by_path_and_a_missing_leaf_is_an_error():
    leaves = {"d": 40, "a/c/1": 30, "a/c/0": 20, "a/b": 10}
    assert filled(TREE, leaves) == {"a": {"b": 10, "c": (20, 30)}, "d": 40}
    with pytest.raises(KeyError):
        filled(TREE, {"d": 40})
