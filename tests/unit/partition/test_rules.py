"""Each table has a rule for each logical axis, and only the mesh's own axes are taken."""

import pytest

from palmscale import axes
from palmscale.errors import UserError
from palmscale.partition.rules import TABLES, layout_rules

MESH_AXES = {axes.REPLICA, axes.DATA, axes.MODEL}
LOGICAL_AXES = {value for name, value in vars(axes).items() if name.isupper()} - MESH_AXES


def flat(target):
    return {target} - {None} if not isinstance(target, tuple) else set(target)


@pytest.mark.parametrize("table", TABLES)
def test_every_table_gives_each_logical_axis_a_rule(table):
    rules = layout_rules(table)
    assert set(rules) == LOGICAL_AXES
    assert set().union(*map(flat, rules.values())) <= MESH_AXES


@pytest.mark.parametrize("table", TABLES)
def test_every_table_splits_the_batch_over_replicas_and_data_and_copies_norms(table):
    rules = layout_rules(table)
    assert rules[axes.BATCH] == (axes.REPLICA, axes.DATA)
    assert rules[axes.NORM] is None
    # Replicas hold whole copies: nothing but the batch is split over them.
    assert not any(axes.REPLICA in flat(rules[name]) for name in LOGICAL_AXES - {axes.BATCH})


def test_tables_differ_in_what_they_split():
    used = {table: set().union(*map(flat, rules.values())) for table, rules in TABLES.items()}
    assert axes.MODEL not in used["replicated"] | used["fully_sharded"]
    weights = {axes.EMBED, axes.HEADS, axes.MLP, axes.VOCAB, axes.VOCAB_EMBED}
    split = {t: {w for w in weights if rules[w]} for t, rules in TABLES.items()}
    assert split == {
        "replicated": set(),
        "fully_sharded": {axes.EMBED, axes.VOCAB_EMBED},
        "tensor": {axes.HEADS, axes.MLP, axes.VOCAB},
        "2d": weights,
    }


def test_overrides_replace_rules_and_add_a_users_own_and_leave_the_table_alone():
    rules = layout_rules("2d", {axes.MLP: None, "experts": (axes.DATA, axes.MODEL)})
    assert rules[axes.MLP] is None
    assert rules["experts"] == (axes.DATA, axes.MODEL)
    assert TABLES["2d"][axes.MLP] == axes.MODEL and "experts" not in TABLES["2d"]


def test_an_unknown_table_or_mesh_axis_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="'3d'.*2d.*fully_sharded.*replicated.*tensor"):
        layout_rules("3d")
    for target in ("modle", (axes.DATA, "modle")):
        with pytest.raises(UserError, match="'mlp' -> .*'modle'.*replica.*data.*model"):
            layout_rules("2d", {axes.MLP: target})
