"""The rules of generation: what is split over which devices, and what stays whole."""

import itertools

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from palmscale import axes
from palmscale.infer.layouts import (
    STORED,
    dividing,
    fitted,
    splitting,
    stored_rules,
    weight_stationary,
    weights_gathered,
)
from palmscale.partition.rules import TABLES
from palmscale.partition.shardings import spec

LOGICAL_AXES = set(TABLES["2d"])
# The dims of each array that a model constrains or stores, as palm.py has them.
ARRAYS = (
    (axes.BATCH, axes.LENGTH, axes.ACT_EMBED),
    (axes.BATCH, axes.LENGTH, axes.ACT_INPUT),
    (axes.BATCH, axes.LENGTH, axes.ACT_HEADS, axes.ACT_KV),
    (axes.BATCH, axes.LENGTH, axes.ACT_MLP),
    (axes.BATCH, axes.LENGTH, axes.ACT_VOCAB),
    (axes.CACHE_BATCH, axes.LENGTH, axes.CACHE_HEADS, None),
    (axes.HEADS_BATCH, axes.LENGTH, axes.ACT_HEADS, axes.ACT_KV),
    (axes.LOOKUP_VOCAB, axes.LOOKUP_EMBED),
    (axes.EMBED, axes.HEADS, axes.KV),
    (axes.MLP, axes.EMBED),
    (axes.VOCAB, axes.VOCAB_EMBED),
)


def sizes(replica, data, model):
    return {axes.REPLICA: replica, axes.DATA: data, axes.MODEL: model}


@pytest.mark.parametrize("rules_of", [weight_stationary, weights_gathered])
@pytest.mark.parametrize("table", STORED)
def test_every_array_has_rules_for_any_number_of_sequences_on_any_mesh(table, rules_of):
    for mesh in itertools.product((1, 2), (1, 3, 4), (1, 2, 8)):
        for sequences in (1, 2, 3, 64):
            rules = rules_of(stored_rules(TABLES["2d"], table), sequences, sizes(*mesh))
            assert set(rules) == LOGICAL_AXES
            for names in ARRAYS:
                spec(names, rules)  # no mesh axis splits two dims


def test_sequences_are_split_over_the_most_devices_that_divide_them():
    assert splitting(64, sizes(1, 4, 16)) == (axes.DATA, axes.MODEL)
    assert splitting(16, sizes(1, 4, 16)) == (axes.MODEL,)
    assert splitting(4, sizes(1, 4, 16)) == (axes.DATA,)
    assert splitting(6, sizes(2, 4, 16)) == (axes.REPLICA,)
    assert splitting(1, sizes(2, 4, 16)) == ()


def test_query_heads_are_split_over_the_devices_that_hold_the_same_sequences():
    stored = stored_rules(TABLES["2d"], "weights_2d")
    rules = {n: weight_stationary(stored, n, sizes(1, 4, 16)) for n in (1, 4, 64)}
    assert [rules[n][axes.CACHE_HEADS] for n in (1, 4, 64)] == [(axes.MODEL,)] * 2 + [None]


def test_both_phases_store_weights_alike():
    weights = (axes.EMBED, axes.HEADS, axes.MLP, axes.KV, axes.VOCAB, axes.VOCAB_EMBED, axes.NORM)
    for table in STORED:
        stored = stored_rules(TABLES["2d"], table)
        phases = (f(stored, 8, sizes(1, 2, 4)) for f in (weight_stationary, weights_gathered))
        assert len({tuple(rules[name] for name in weights) for rules in phases}) == 1


def test_what_does_not_divide_stays_whole():
    assert dividing((axes.MODEL, axes.DATA), 48, sizes(1, 4, 16)) == axes.MODEL
    assert dividing((axes.MODEL, axes.DATA), 64, sizes(1, 4, 16)) == (axes.MODEL, axes.DATA)
    assert dividing(axes.MODEL, 12, sizes(1, 1, 8)) is None
    boxed = {
        name: nn.Partitioned(jax.ShapeDtypeStruct((6, columns), jnp.float32), ("embed", "mlp"))
        for name, columns in (("up", 16), ("gate", 24))
    }
    rules = fitted({"embed": "data", "mlp": ("model", "data"), "heads": "model"}, boxed,
                   sizes(1, 2, 4))  # fmt: skip
    assert rules == {"embed": "data", "mlp": ("model", "data"), "heads": "model"}
    rules = fitted({"embed": "data", "mlp": ("model", "data")}, boxed, sizes(1, 4, 4))
    assert rules == {"embed": None, "mlp": "model"}
