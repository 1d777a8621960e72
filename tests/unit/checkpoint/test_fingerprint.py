import json
import os
import sys

import forked
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palmscale.checkpoint import fingerprint as module
from palmscale.checkpoint.fingerprint import fingerprint
from palmscale.trees import named_leaves, nested

DTYPES = ["float32", "bfloat16", "float16", "int32", "uint32", "int8", "bool"]


def tree():
    normal = np.random.default_rng(0).normal(size=(16, 24)) * 100
    made = {
        dtype: jnp.asarray(normal > 0 if dtype == "bool" else normal, dtype)
        for dtype in DTYPES
        if dtype != "uint32"
    }
    return made | {
        "uint32": jnp.arange(384, dtype=jnp.uint32).reshape(16, 24) * 12345,
        "scalar": jnp.float32(3),
        "key": jax.random.key(1),
        "empty": jnp.zeros((0, 4)),
        "deep": (jnp.arange(24.0).reshape(2, 3, 4), [jnp.arange(5)]),
    }


def flip(array, element, bit):
    raw = np.array(array)
    view = raw.reshape(-1).view(np.uint8)
    view[element * raw.itemsize + bit // 8] ^= 1 << bit % 8
    return raw


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from([dtype for dtype in DTYPES if dtype != "bool"]),
    st.integers(0, 383),
    st.integers(0, 7),
)
def test_any_flipped_bit_changes_it(dtype, element, bit):
    array = tree()[dtype]
    for place in range(bit, array.dtype.itemsize * 8, 8):
        assert fingerprint({"a": flip(array, element, place)}) != fingerprint({"a": array})


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 383), st.integers(0, 383))
def test_swapped_and_negated_elements_change_it(first, second):
    raw = np.array(tree()["float32"]).reshape(-1)
    before = fingerprint([raw.reshape(16, 24)])
    swapped = raw.copy()
    swapped[[first, second]] = swapped[[second, first]]
    assert (fingerprint([swapped.reshape(16, 24)]) == before) == (first == second)
    # Where the bits are only multiplied, two sign bits cancel each other.
    negated = raw.copy()
    negated[first] *= -1
    negated[second] *= -1
    assert (fingerprint([negated.reshape(16, 24)]) == before) == (first == second)


def test_a_flipped_bool_and_a_transposed_array_change_it():
    base = tree()
    flipped = base["bool"].at[3, 3].set(~base["bool"][3, 3])
    assert fingerprint([flipped]) != fingerprint([base["bool"]])
    square = base["float32"][:, :16]
    assert fingerprint([square]) != fingerprint([square.T])


def test_it_is_named_by_path_and_leaves_out_empty_arrays():
    assert set(fingerprint(tree())) == {*DTYPES, "scalar", "key", "deep/0", "deep/1/0"}
    assert fingerprint({}) == {} == fingerprint({"empty": jnp.zeros((0,))})


def test_it_is_the_one_that_stored_checkpoints_rely_on():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert fingerprint({"a": array}) == {"a": "75628a9eca0372a7"}


def test_it_compiles_once_for_a_structure():
    fingerprint(tree())
    before = module._compiled(None)._cache_size()
    fingerprint(tree())
    assert module._compiled(None)._cache_size() == before


ON_EIGHT = """
import json, sys
sys.path[:0] = {path!r}
from test_fingerprint import *
found = [fingerprint(tree())]
for kind, shapes in (jax.sharding.AxisType.Auto, [(8, 1), (2, 4), (1, 1)]), (
        jax.sharding.AxisType.Explicit, [(4, 2)]):
    for shape in shapes:
        mesh = jax.make_mesh(shape, ("data", "model"), devices=jax.devices()[:np.prod(shape)],
                             axis_types=(kind, kind))
        with jax.set_mesh(mesh):
            put = lambda leaf: jax.device_put(leaf, jax.NamedSharding(
                mesh, jax.P("data", "model") if leaf.shape == (16, 24) else jax.P()))
            placed = jax.tree.map(put, tree())
            found.append(fingerprint(placed))
eight = jax.make_mesh((2, 4), ("data", "model"))
big = jax.ShapeDtypeStruct((1024, 1024), jnp.float32,
                           sharding=jax.NamedSharding(eight, jax.P("data", "model")))
program = module._compiled(jax.NamedSharding(eight, jax.P())).lower([big]).compile().as_text()
assert "all-gather" not in program and "all-reduce" in program, program
print(json.dumps(found))
"""


def test_it_is_the_same_on_every_mesh():
    script = ON_EIGHT.format(path=[os.path.dirname(__file__), *sys.path])
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    done = forked.run(
        [sys.executable, "-c", script],
        env=os.environ | {"XLA_FLAGS": flags},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert len(found) == 5 and all(other == found[0] for other in found)
    assert found[0] == fingerprint(tree())


def test_named_leaves_of_dicts_become_their_tree_again():
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert nested(named_leaves(tree)) == tree
    assert nested({}) == {}


def test_an_array_of_four_bits_has_one_that_any_element_changes():
    values = jnp.arange(-8, 8).reshape(4, 4)
    seen = {fingerprint(values.at[n // 4, n % 4].add(1).astype(jnp.int4))[""] for n in range(15)}
    assert len(seen | {fingerprint(values.astype(jnp.int4))[""]}) == 16


@pytest.mark.parametrize(("rows", "columns"), [(16, 24), (5, 24), (7, 9)])
def test_blocks_in_any_order_give_the_fingerprint_of_the_whole(rows, columns):
    whole = tree()["bfloat16"]
    blocks = module.BlockFingerprint()
    for row in reversed(range(0, 16, rows)):
        for column in range(0, 24, columns):
            block = np.asarray(whole)[row : row + rows, column : column + columns]
            blocks.add(block, (row, column))
    assert {"a": blocks.text} == fingerprint({"a": whole})
