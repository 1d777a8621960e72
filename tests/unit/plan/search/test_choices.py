import dataclasses

import pytest
from small_search import BASE, RUN, SHAPE

from palmscale.plan.hardware.topology import parse
from palmscale.plan.search.choices import HOST_REMATS, OPTIONS, REMATS, choices, divides, variations
from palmscale.plan.search.layout_search import base_choice

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
    parts = {one.replicas * one.data * one.gradient_accumulation_steps for one in choices(ramp)}
    assert all(32 % size == 0 for size in parts)


def test_changes_are_the_fields_that_differ():
    other = dataclasses.replace(
        BASE, gradient_accumulation_steps=2, remat=REMATS[1], residual="sequence"
    )
    assert BASE.changes(RUN, BASE) == {}
    assert other.changes(RUN, BASE) == {
        "Training.gradient_accumulation_steps": 2,
        "PaLM.remat": ("query", "key", "value", "attention"),
        "Layout.overrides": {"act_embed": None, "act_length": "model"},
    }


def test_a_choice_turns_into_a_run_that_makes_it():
    assert BASE.apply(RUN, BASE) == RUN
    other = dataclasses.replace(
        BASE, data=8, model=8, gradient_accumulation_steps=2, remat=REMATS[1], vocabulary="data",
        options=tuple(OPTIONS[-1].items()),
    )  # fmt: skip
    assert base_choice(other.apply(RUN, BASE), parse("v4:4x4x4")) == other


def test_a_mesh_is_one_change():
    other = dataclasses.replace(BASE, replicas=4, data=8, model=2)
    assert other.distance(BASE) == 1
    assert other.changes(RUN, BASE, slices=2) == {
        "MeshSpec.replicas": 8, "MeshSpec.data": 8, "MeshSpec.model": 2}  # fmt: skip


def test_savings_in_the_hosts_memory_are_among_them():
    assert {one.remat for one in ALL} == {*REMATS, *HOST_REMATS}


def test_variations_are_the_other_options_of_the_compiler():
    own = dataclasses.replace(BASE, options=tuple(OPTIONS[-1].items()))
    varied = [dict(one.options) for one in variations(own)]
    assert varied == [dict(options) for options in OPTIONS[:-1]]
    assert variations(own)[0].changes(RUN, own) == {"Layout.tpu_options": {}}
