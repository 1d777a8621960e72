"""Patterns choose the parameters that train; the others are not touched."""

import pytest
from flax import linen as nn

from palmscale.errors import UserError
from palmscale.optim.trainable import Trainable, trainable

TREE = {"embedding": 1, "layers": {"query": 2, "key": 3}, "final_norm": 4}
PATHS = ("embedding", "layers/query", "layers/key", "final_norm")


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        (("layers/*",), {"layers": {"query": 2, "key": 3}}),
        (("*norm", "embedding"), {"embedding": 1, "final_norm": 4}),
        (("layers/key",), {"layers": {"key": 3}}),
        (("*",), TREE),
    ],
)
def test_a_part_is_what_the_patterns_match_and_goes_back_to_its_place(patterns, chosen):
    found = trainable(patterns, PATHS)
    assert found.part(TREE) == chosen
    assert found.joined(found.part(TREE), TREE) == TREE


def test_without_a_pattern_the_tree_is_its_own_part():
    assert trainable((), PATHS) == Trainable()
    assert Trainable().part(TREE) is TREE and Trainable().joined({"new": 0}, TREE) == {"new": 0}


def test_new_leaves_replace_the_old_ones_and_no_others():
    found = trainable(("layers/query",), PATHS)
    assert found.joined({"layers": {"query": 9}}, TREE) == {
        **TREE,
        "layers": {"query": 9, "key": 3},
    }


def test_boxes_are_leaves():
    tree = {"a": nn.LogicallyPartitioned(1, ("x",)), "b": nn.LogicallyPartitioned(2, ("y",))}
    assert trainable(("b",), tree).part(tree) == {"b": tree["b"]}


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(UserError, match=r"Run.trainable has 'layer/\*', which matches no param"):
        trainable(("layers/*", "layer/*"), PATHS)
