"""A layout is described without devices, then placed on some and entered."""

import jax
import pytest

from palmscale import axes
from palmscale.errors import UserError
from palmscale.partition.layout import Layout, data_parallel, describe_mesh, enter
from palmscale.partition.mesh import MeshSpec

ONE = Layout(mesh=MeshSpec(data=1, model=1))


def test_the_rules_are_a_table_with_overrides():
    layout = Layout(rules="tensor", overrides={"mine": axes.DATA, axes.HEADS: None})
    table = layout.table()
    assert table["mine"] == axes.DATA and table[axes.HEADS] is None
    assert table[axes.MLP] == axes.MODEL


def test_axis_sizes_are_worked_out_for_a_number_of_devices_or_stated_by_the_mesh():
    assert Layout(mesh=MeshSpec(data=-1, model=2)).axis_sizes(8) == {
        axes.REPLICA: 1,
        axes.DATA: 4,
        axes.MODEL: 2,
    }
    stated = Layout(mesh=MeshSpec(replicas=2, data=4, model=2))
    assert stated.axis_sizes(None)[axes.DATA] == 4
    assert data_parallel(stated, 16) == 8


@pytest.mark.parametrize("field", ["slices", "simulated_devices"])
def test_counts_are_at_least_one(field):
    with pytest.raises(UserError, match=f"Layout.{field}=0 must be at least 1"):
        Layout(**{field: 0})


def test_an_entered_layout_has_the_mesh_and_says_where_a_batch_lies():
    with enter(ONE, jax.devices()[:1]) as placed:
        assert not jax.sharding.get_abstract_mesh().empty
        assert placed.data_parallel == 1 and placed.batch_sharding.mesh == placed.mesh
    assert jax.sharding.get_abstract_mesh().empty
    with placed.entered():
        assert not jax.sharding.get_abstract_mesh().empty


def test_a_mesh_is_described_by_its_axes_longer_than_one():
    with enter(ONE, jax.devices()[:1]) as placed:
        assert describe_mesh(placed.mesh) == "1 cpu device(s)"
