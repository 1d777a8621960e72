"""What differs between two trees is said in words, and never in a page of them."""

import jax
import jax.numpy as jnp
import numpy as np

from palmscale.checkpoint.summary import listed, mismatches, shapes, summarize

TREE = {"a": {"kernel": jnp.ones((2, 3))}, "count": jnp.zeros((), jnp.int32)}


def test_concrete_and_abstract_trees_have_the_same_shapes():
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), TREE)
    assert shapes(TREE) == shapes(abstract)
    assert shapes(TREE)["a/kernel"] == {"shape": [2, 3], "dtype": "float32"}


def test_a_description_adds_a_fingerprint_that_tells_values_apart():
    kernel = summarize(TREE)["a/kernel"]
    other = summarize({**TREE, "a": {"kernel": jnp.full((2, 3), 2.0)}})["a/kernel"]
    assert kernel["fingerprint"] != other["fingerprint"]
    assert {**kernel, "fingerprint": 0} == {**other, "fingerprint": 0}


def test_equal_trees_have_no_differences():
    assert mismatches(shapes(TREE), shapes(TREE)) == []


def test_missing_extra_and_changed_arrays_are_named():
    wanted = {"a": {"kernel": np.ones((3, 2), np.float32)}, "new": np.zeros(1)}
    missing, extra, changed = mismatches(shapes(TREE), shapes(wanted))
    assert missing == "missing in the checkpoint: new"
    assert extra == "extra in the checkpoint: count"
    assert changed == ("a/kernel is float32[2, 3] in the checkpoint and float32[3, 2] in the model")


def test_a_dtype_alone_is_a_difference():
    wanted = {**TREE, "count": jnp.zeros((), jnp.uint32)}
    assert mismatches(shapes(TREE), shapes(wanted)) == [
        "count is int32[] in the checkpoint and uint32[] in the model"
    ]


def test_names_and_dtypes_from_a_file_do_not_break_the_line():
    named = {"a\nb": {"shape": [1], "dtype": "x\n\x1b"}}
    wanted = {"a\nb": {"shape": [1], "dtype": "float32"}}
    assert mismatches(named, wanted) == [
        r"a\nb is x\n\x1b[1] in the checkpoint and float32[1] in the model"
    ]
    assert listed(["a\nb"]) == r"a\nb"


def test_long_lists_are_cut_and_counted():
    assert listed([3, 1, 2]) == "1, 2, 3"
    assert listed(range(20)).endswith("6, 7 and 12 more")
    many = {str(i): {"shape": [1], "dtype": "float32"} for i in range(30)}
    other = {name: {"shape": [2], "dtype": "float32"} for name in many}
    assert len(mismatches(many, other)) == 9 and mismatches(many, other)[-1] == "and 22 more"
