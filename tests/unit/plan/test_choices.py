import dataclasses

import pytest
from small_search import BASE, SHAPE

from palmscale.plan.choices import HOST_REMATS, OPTIONS, REMATS, choices, divides, variations

ALL = list(choices(SHAPE))


def test_the_model_is_counted_as_it_is():
    assert SHAPE.params == pytest.approx(8.63e9, rel=0.01)


def test_every_choice_divides_and_uses_every_device():
    assert all(one.replicas * one.data * one.model == 64 for one in ALL)
    assert all(divides(one, SHAPE) for one in ALL)
    assert {one.model for one in ALL} == {1, 2, 4, 8, 16}
    assert {one.replicas for one in ALL} == {1, 2, 4, 8}


def test_every_stage_of_the_batch_schedule_divides():
    ramp = dataclasses.replace(SHAPE, stages=(32, 512))
    parts = {one.replicas * one.data * one.microbatches for one in choices(ramp)}
    assert all(32 % size == 0 for size in parts)


def test_settings_are_those_that_differ_as_gin_writes_them():
    other = dataclasses.replace(BASE, microbatches=2, remat=REMATS[1], residual="sequence")
    assert BASE.settings(BASE) == {}
    assert other.settings(BASE) == {
        "MICROBATCHES": "2",
        "REMAT": "('query', 'key', 'value', 'attention')",
        "RULE_OVERRIDES": "{'act_embed': None, 'act_length': 'model'}",
    }


def test_a_mesh_is_one_change():
    other = dataclasses.replace(BASE, replicas=4, data=8, model=2)
    assert other.distance(BASE) == 1
    assert other.settings(BASE, slices=2) == {
        "REPLICAS": "8", "DATA": "8", "MODEL_PARALLEL": "2"}  # fmt: skip


def test_savings_in_the_hosts_memory_are_among_them():
    assert {one.remat for one in ALL} == {*REMATS, *HOST_REMATS}


def test_variations_are_the_other_options_of_the_compiler():
    own = dataclasses.replace(BASE, options=tuple(OPTIONS[-1].items()))
    varied = [dict(one.options) for one in variations(own)]
    assert varied == [dict(options) for options in OPTIONS[:-1]]
    assert variations(own)[0].settings(own) == {"TPU_COMPILER_OPTIONS": "{}"}
