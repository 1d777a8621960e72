"""Names become shardings, whatever is unknown or ambiguous raises, and the audit adds up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from palmscale import PaLM, axes
from palmscale.errors import UserError
from palmscale.partition.mesh import MeshSpec, layout, make_mesh
from palmscale.partition.rules import TABLES, layout_rules
from palmscale.partition.shardings import (
    audit,
    constrain,
    logical_axes,
    make_shardings,
    map_shards,
    spec,
    unbox,
)
from palmscale.train.state import abstract_params

RULES = layout_rules("2d")
FOUR_BY_TWO = {axes.REPLICA: 1, axes.DATA: 4, axes.MODEL: 2}
MODEL = PaLM(num_tokens=64, dim=16, depth=2, heads=4, dim_head=4)


def box(shape, names, dtype=jnp.float32):
    return nn.LogicallyPartitioned(jax.ShapeDtypeStruct(shape, dtype), names)


@pytest.fixture(scope="module")
def params():
    return abstract_params(MODEL)


@pytest.fixture(scope="module")
def one_device():
    return make_mesh(MeshSpec(), jax.devices()[:1])


def test_names_become_mesh_axes_and_none_stays_whole():
    assert spec((axes.EMBED, axes.MLP), RULES) == P(axes.DATA, axes.MODEL)
    assert spec((None, axes.BATCH), RULES) == P(None, (axes.REPLICA, axes.DATA))
    assert spec((), RULES) == P()


def test_a_misspelt_logical_axis_is_refused_where_flax_replicates(one_device):
    with nn.logical_axis_rules(tuple(RULES.items())):
        assert nn.logical_to_mesh_axes((axes.EMBED, "mpl"))[1] is None  # the trap
    with pytest.raises(UserError, match=r"\['mpl'\].*known: .*mlp.*overrides"):
        spec((axes.EMBED, "mpl"), RULES)
    with layout(one_device, RULES), pytest.raises(UserError, match="mpl"):
        constrain(jnp.ones((2, 2)), (axes.BATCH, "mpl"))


def test_one_mesh_axis_for_two_dims_is_refused_where_flax_drops_one():
    names = (axes.HEADS, axes.MLP)
    with nn.logical_axis_rules(tuple(RULES.items())):
        assert sorted(map(str, nn.logical_to_mesh_axes(names))) == ["None", "model"]  # the trap
    with pytest.raises(UserError, match="heads.*mlp.*one mesh axis would shard two dims"):
        spec(names, RULES)
    with pytest.raises(UserError, match="two dims"):
        spec((axes.BATCH, axes.EMBED), RULES)  # data stands in a tuple


def test_a_constraint_names_every_dim(one_device):
    with layout(one_device, RULES), pytest.raises(ValueError, match=r"2 dims .* \(2, 2, 2\)"):
        constrain(jnp.ones((2, 2, 2)), (axes.BATCH, axes.LENGTH))


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_a_kernel_runs_on_shards_where_the_devices_are_its_own(platform):
    """Here they are CPUs: what is for TPUs gives way to its equal."""
    mesh, seen = make_mesh(MeshSpec(), jax.devices()[:1]), []

    def kernel(x, y):
        seen.append(jax.sharding.get_abstract_mesh().are_all_axes_manual)
        return x + y

    names = (axes.BATCH, axes.LENGTH)
    chosen = dict(platform=platform, inputs=(names, names), output=names)
    with layout(mesh, RULES):
        mapped = map_shards(kernel, lambda x, y: x - y, **chosen)
        x, y = jnp.full((4, 2), 5.0), jnp.full((4, 2), 3.0)
        result = jax.jit(mapped)(x, y)
        assert (result.item(0), seen) == ((8.0, [True]) if platform == "cpu" else (2.0, []))
        # What is not split over an axis gets the sum of all shards' gradients.
        grads = jax.jit(jax.grad(lambda x, y: jnp.sum(mapped(x, y)), argnums=(0, 1)))(x, y)
        assert [g.item(0) for g in grads] == [1.0, 1.0 if platform == "cpu" else -1.0]
    assert map_shards(kernel, min, **chosen) is min


def test_a_kernels_axes_need_rules_like_all_others(one_device):
    names = dict(inputs=((axes.BATCH, "mpl"),), output=(axes.BATCH, None))
    with layout(one_device, RULES), pytest.raises(UserError, match="mpl"):
        map_shards(abs, abs, platform="cpu", **names)


def test_a_size_that_does_not_divide_is_named_with_its_parameter_and_mesh_axis():
    mesh = AbstractMesh(tuple(FOUR_BY_TWO.values()), tuple(FOUR_BY_TWO))
    boxed = {"layers": {"query": box((2, 16, 3, 4), (axes.LAYERS, axes.EMBED, axes.HEADS, None))}}
    wanted = r"layers/query has 3 along 'heads'.* 2 devices of mesh axis 'model'; .* multiple of 2"
    with pytest.raises(UserError, match=wanted):
        audit(boxed, FOUR_BY_TWO, RULES)
    with pytest.raises(UserError, match=wanted):
        make_shardings(boxed, mesh, RULES)
    both = {**RULES, "wide": (axes.DATA, axes.MODEL)}
    with pytest.raises(UserError, match="bias has 12 along 'wide'.* 8 devices"):
        make_shardings({"bias": box((12,), ("wide",))}, mesh, both)


def test_shardings_follow_the_names_and_what_has_none_is_whole(one_device):
    boxed = {"w": box((4, 4), (axes.EMBED, axes.MLP)), "count": jax.ShapeDtypeStruct((), "int32")}
    shardings = make_shardings(boxed, one_device, RULES)
    assert shardings["w"].spec == P(axes.DATA, axes.MODEL)
    assert shardings["count"].spec == P()
    assert shardings["w"].mesh is one_device
    assert logical_axes(boxed) == {"w": (axes.EMBED, axes.MLP), "count": ()}


def test_unboxing_leaves_values_alone_inside_a_layout_too(one_device):
    w, count = np.ones((2, 2)), np.int32(3)
    boxed = {"w": nn.LogicallyPartitioned(w, (axes.EMBED, "mpl")), "count": count}
    with layout(one_device, RULES):
        plain = unbox(boxed)
    assert plain["w"] is w and plain["count"] is count


def test_on_4x2_each_large_parameter_has_an_eighth_of_its_bytes_on_a_device(params):
    rows = {row.name: row for row in audit(params, FOUR_BY_TWO, RULES)}
    norms = {"final_norm", "layers/norm"}
    shared = {"layers/key", "layers/value"}  # their dims leave only `data`
    for name, row in rows.items():
        shards = 1 if name in norms else 4 if name in shared else 8
        assert row.bytes_per_device * shards == row.bytes, name
        assert row.copies * shards == 8, name
        assert row.is_replicated == (name in norms), name
    assert rows["embedding"].mesh_axes == (axes.MODEL, axes.DATA)
    assert norms | shared < set(rows) and len(rows) == 10


@pytest.mark.parametrize("table", TABLES)
def test_the_audit_adds_up_to_the_bytes_of_the_tree(params, table):
    rows = audit(params, FOUR_BY_TWO, layout_rules(table))
    plain = jax.tree.leaves(unbox(params))
    assert [row.shape for row in rows] == [leaf.shape for leaf in plain]
    assert sum(row.bytes for row in rows) == sum(leaf.size * 4 for leaf in plain)
    # Copies of everything, over all devices, are what all devices hold.
    held = sum(row.bytes_per_device * 8 for row in rows)
    assert held == sum(row.bytes * row.copies for row in rows)


def test_the_audit_counts_bytes_of_each_dtype_and_one_device_replicates_nothing():
    boxed = {"half": box((8, 4), (axes.EMBED, None), jnp.bfloat16), "n": box((), (), jnp.int32)}
    half, n = audit(boxed, FOUR_BY_TWO, RULES)
    assert (half.bytes, half.bytes_per_device, half.copies) == (64, 16, 2)
    assert (n.bytes, n.bytes_per_device, n.copies) == (4, 4, 8)
    alone = dict.fromkeys(FOUR_BY_TWO, 1)
    assert not any(row.is_replicated for row in audit(boxed, alone, RULES))
