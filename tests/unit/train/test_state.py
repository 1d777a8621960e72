"""The state is planned by tracing, sharded from birth, and the same on any mesh."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from eight_devices import facts_on_eight_devices
from flax import linen as nn
from jax.sharding import AbstractMesh
from tiny_training import MODEL, OPTIMIZER, training

from palmscale import axes
from palmscale.errors import UserError
from palmscale.optim.build import AdamW
from palmscale.optim.schedules import Constant
from palmscale.partition.rules import layout_rules
from palmscale.partition.shardings import path_name
from palmscale.train.state import abstract_params, init_state, plan_state

ADAMW = AdamW(
    learning_rate=Constant(value=1e-3),
    beta1=0.9,
    beta2=0.95,
    eps=1e-8,
    weight_decay=0.1,
    clip_global_norm=None,
)


def leaves(tree):
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def init_facts():
    """Run with eight devices."""
    facts = {"digests": {}, "shards": {}}
    for data, model in (1, 1), (4, 2), (1, 8):
        with training(data, model) as here:
            state = init_state(here.plan, MODEL, seed=3)
            planned = leaves(here.plan.abstract)
        mesh = f"{data}x{model}"
        facts["digests"][mesh] = {
            name: hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest()
            for name, leaf in leaves(state).items()
        }
        facts["shards"][mesh] = {
            name: leaf.sharding == planned[name].sharding
            and leaf.dtype == planned[name].dtype
            and all(shard.data.shape == shape for shard in leaf.addressable_shards)
            for name, leaf in leaves(state).items()
            for shape in [planned[name].sharding.shard_shape(planned[name].shape)]
        }
    return facts


@pytest.fixture(scope="module")
def facts():
    return facts_on_eight_devices(init_facts)


@pytest.fixture(scope="module")
def plan():
    with training(1, 1) as here:
        return here.plan


def test_the_initial_state_is_the_same_bits_on_any_mesh(facts):
    alone, four_by_two, one_by_eight = facts["digests"].values()
    assert alone == four_by_two == one_by_eight
    assert len(alone) == 1 + 10 + 1 + 2 * 10  # step, parameters, count and two moments


def test_the_initial_state_lies_where_the_plan_has_it(facts):
    for mesh, shards in facts["shards"].items():
        assert all(shards.values()), (mesh, shards)


def test_moments_have_the_parameters_logical_axes_and_counters_none(plan):
    boxed = leaves_of_boxes(plan.boxed)
    params = {name: names for name, names in boxed.items() if name.startswith("params/")}
    moments = {name: names for name, names in boxed.items() if name.startswith("optimizer_state/")}
    for name, names in moments.items():
        _, _, moment, *rest = name.split("/")
        assert names == (() if moment == "count" else params["/".join(["params", *rest])]), name
    assert len(moments) == 2 * len(params) + 1
    assert boxed["step"] == ()


def leaves_of_boxes(tree):
    is_box = lambda node: isinstance(node, nn.Partitioned)  # noqa: E731
    found = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_box)
    return {path_name(p): leaf.names if is_box(leaf) else () for p, leaf in found}


def test_the_plan_is_of_shapes_alone_and_counts_steps_from_int32_zero(plan):
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(plan.abstract))
    assert plan.abstract.step.dtype == jnp.int32
    assert plan.abstract.params["embedding"].shape == (32, 32)
    assert plan.shardings.step == plan.abstract.step.sharding


def test_another_optimizers_state_is_planned_without_its_classes_being_known():
    with training(1, 1, optimizer=ADAMW) as here:
        named = leaves_of_boxes(here.plan.boxed.optimizer_state)
    of_moments = [names for names in named.values() if names == (axes.VOCAB, axes.VOCAB_EMBED)]
    assert len(of_moments) == 2


def test_heads_that_do_not_divide_over_the_mesh_are_named_before_anything_is_made():
    wide = AbstractMesh((1, 1, 16), (axes.REPLICA, axes.DATA, axes.MODEL))
    with pytest.raises(UserError, match="attention_out has 8 along 'heads'.* 16 devices"):
        plan_state(model=MODEL, optimizer=OPTIMIZER, mesh=wide, rules=layout_rules("2d"))


class Unnamed(nn.Module):
    """One parameter has logical axes, the other has none."""

    @nn.compact
    def __call__(self, tokens_BL):
        named = nn.with_logical_partitioning(nn.initializers.ones, (axes.NORM,))
        return self.param("scale", named, (4,)) + self.param("bias", nn.initializers.zeros, (4,))


def test_a_parameter_without_logical_axes_is_refused_by_name():
    with pytest.raises(UserError, match="parameter bias of Unnamed has no logical axes.*with_log"):
        abstract_params(Unnamed())


def test_given_parameters_take_the_place_of_the_seeds_and_the_optimizer_begins_with_them():
    with training(1, 1) as here:
        other = leaves(init_state(here.plan, MODEL, seed=7).params)
        own = init_state(here.plan, MODEL, seed=3)
        fresh = sorted(other)[0]
        given = {name: leaf for name, leaf in other.items() if name != fresh}
        state = init_state(here.plan, MODEL, seed=3, given=given)
        assert jax.tree.structure(state) == jax.tree.structure(own)
        for name, leaf in leaves(state.params).items():
            expected = leaves(own.params) if name == fresh else other
            np.testing.assert_array_equal(leaf, expected[name])
        optimizer_state = here.plan.transformation.init(state.params)
        for ours, theirs in zip(
            jax.tree.leaves(state.optimizer_state), jax.tree.leaves(optimizer_state), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
        assert int(state.step) == 0
        for leaf, planned in zip(
            jax.tree.leaves(state), jax.tree.leaves(here.plan.abstract), strict=True
        ):
            assert leaf.sharding == planned.sharding and leaf.dtype == planned.dtype
