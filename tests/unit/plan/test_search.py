import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palmscale.plan.chips import CHIPS, GIB
from palmscale.plan.search import (
    REMATS,
    Choice,
    Shape,
    choices,
    divides,
    estimated_bytes,
    estimated_seconds,
    promising,
    remedies,
)

SHAPE = Shape(
    width=4096,
    heads=16,
    head_size=256,
    mlp=16384,
    layers=32,
    vocabulary=256_000,
    sequences=512,
    length=2048,
    slices=1,
    devices=64,
    chip=CHIPS["v4"],
    offered_bytes=int(30.75 * GIB),
    ways=lambda replicas, data, model: (50e9, 200e9, 100e9),
)
BASE = Choice(data=16, model=4, microbatches=1, loss_chunk_length=512, remat="full")
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


def test_a_mesh_is_one_change():
    other = dataclasses.replace(BASE, replicas=4, data=8, model=2)
    assert other.distance(BASE) == 1
    assert other.settings(BASE, slices=2) == {
        "REPLICAS": "8", "DATA": "8", "MODEL_PARALLEL": "2"}  # fmt: skip


def test_replicas_hold_more_and_sum_their_gradients():
    fewer, more = (dataclasses.replace(BASE, replicas=r, data=16 // r) for r in (1, 4))
    assert estimated_bytes(more, SHAPE) > estimated_bytes(fewer, SHAPE)
    slow = dataclasses.replace(SHAPE, ways=lambda *mesh: (1e9, 200e9, 100e9))
    assert estimated_seconds(more, slow) > estimated_seconds(more, SHAPE)


def test_settings_are_those_that_differ_as_gin_writes_them():
    other = dataclasses.replace(BASE, microbatches=2, remat=REMATS[1], residual="sequence")
    assert BASE.settings(BASE) == {}
    assert other.settings(BASE) == {
        "MICROBATCHES": "2",
        "REMAT": "('query', 'key', 'value', 'attention')",
        "RULE_OVERRIDES": "{'act_embed': None, 'act_length': 'model'}",
    }


@given(st.sampled_from(ALL))
def test_saving_more_holds_more_and_takes_no_longer(one):
    more = dataclasses.replace(one, remat=REMATS[-1])
    assert estimated_bytes(more, SHAPE) >= estimated_bytes(one, SHAPE)
    assert estimated_seconds(more, SHAPE) <= estimated_seconds(one, SHAPE) * 1.0001


@given(st.sampled_from([one for one in ALL if one.microbatches < 8]))
def test_more_microbatches_hold_fewer_activations(one):
    more = dataclasses.replace(one, microbatches=one.microbatches * 2)
    gradients = 4 * SHAPE.params / 64  # summed over microbatches
    assert estimated_bytes(more, SHAPE) <= estimated_bytes(one, SHAPE) + gradients


def test_the_arithmetic_is_near_the_compiler():
    """The 8B model on 64 v4, all recomputed: 13.6 GiB by the compiler, with float32 sums."""
    assert estimated_bytes(BASE, SHAPE) / GIB == pytest.approx(13.6, rel=0.3)


def test_promising_ones_fit_and_differ_in_more_than_loss_chunks():
    kept = promising(ALL, SHAPE, 5)
    assert len(kept) == 5
    assert all(estimated_bytes(one, SHAPE) <= SHAPE.offered_bytes for one in kept)
    assert len({dataclasses.replace(one, loss_chunk_length=1) for one in kept}) == 5
    seconds = [estimated_seconds(one, SHAPE) for one in kept]
    assert seconds == sorted(seconds)


def test_remedies_hold_less_and_change_little():
    heavy = dataclasses.replace(BASE, remat="none")
    near = remedies(heavy, SHAPE, 4)
    distances = [one.distance(heavy) for one in near]
    assert distances == sorted(distances) and distances[0] == 1
    assert all(estimated_bytes(one, SHAPE) < estimated_bytes(heavy, SHAPE) for one in near)
