import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_search import BASE, SHAPE

from palmscale.plan.hardware.chips import GIB
from palmscale.plan.search.choices import HOST_REMATS, REMATS, choices
from palmscale.plan.search.estimate import estimated_bytes, estimated_seconds, promising, remedies

ALL = list(choices(SHAPE))


def test_replicas_hold_more_and_sum_their_gradients():
    fewer, more = (dataclasses.replace(BASE, replicas=r, data=16 // r) for r in (1, 4))
    assert estimated_bytes(more, SHAPE) > estimated_bytes(fewer, SHAPE)
    slow = dataclasses.replace(SHAPE, ways=lambda *mesh: (1e9, 200e9, 100e9))
    assert estimated_seconds(more, slow) > estimated_seconds(more, SHAPE)


@given(st.sampled_from(ALL))
def test_saving_more_holds_more_and_takes_no_longer(one):
    more = dataclasses.replace(one, remat=REMATS[-1])
    assert estimated_bytes(more, SHAPE) >= estimated_bytes(one, SHAPE)
    assert estimated_seconds(more, SHAPE) <= estimated_seconds(one, SHAPE) * 1.0001


@given(st.sampled_from([one for one in ALL if one.gradient_accumulation_steps < 8]))
def test_more_accumulation_steps_hold_fewer_activations(one):
    more = dataclasses.replace(one, gradient_accumulation_steps=2 * one.gradient_accumulation_steps)
    gradients = 4 * SHAPE.params / 64  # summed over the steps
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
    assert all(one.replicas == 1 for one in near)  # another copy of the model is no remedy


def test_what_the_hosts_hold_the_devices_do_not_and_it_is_copied():
    for on_host in HOST_REMATS:
        saved = dataclasses.replace(BASE, remat=tuple(n.removesuffix("@host") for n in on_host))
        copied = dataclasses.replace(BASE, remat=on_host)
        assert estimated_bytes(copied, SHAPE) < estimated_bytes(saved, SHAPE)
        assert estimated_seconds(copied, SHAPE) >= estimated_seconds(saved, SHAPE)
