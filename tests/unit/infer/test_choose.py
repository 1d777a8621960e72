"""Layouts of generation are chosen by what devices hold and what travels, as Pope et al. do."""

import math

import pytest

from palmscale import axes
from palmscale.infer.choose import choose_layout, choose_storage
from palmscale.infer.layouts import STORED, dividing
from palmscale.model.interface import Dimensions


def palm(width, heads, layers):
    return Dimensions(
        width=width, heads=heads, head_dim=256, mlp=4 * width, layers=layers, stored_tokens=256_128
    )


PALM_8B, PALM_62B, PALM_540B = palm(4096, 16, 32), palm(8192, 32, 64), palm(18432, 48, 118)


def chosen(dimensions, num_devices, sequences, new_tokens):
    table, mesh = choose_storage(dimensions, num_devices)
    lengths = {
        axes.EMBED: dimensions.width, axes.HEADS: dimensions.heads, axes.MLP: dimensions.mlp,
        axes.VOCAB: dimensions.stored_tokens,
    }  # fmt: skip
    stored = {name: dividing(STORED[table][name], n, mesh) for name, n in lengths.items()}
    return choose_layout(
        stored, mesh, dimensions=dimensions, sequences=sequences, new_tokens=new_tokens
    )


@pytest.mark.parametrize(
    ("dimensions", "num_devices", "table", "data", "model"),
    [
        (PALM_8B, 1, "weights_1d", 1, 1),
        (PALM_8B, 8, "weights_1d", 1, 8),
        (PALM_62B, 16, "weights_1d", 1, 16),
        # Pope et al., section 3.2.2: in two dims from 64 chips on, 4 x 16 for 64.
        (PALM_540B, 64, "weights_2d", 4, 16),
        (PALM_540B, 512, "weights_2d", 32, 16),
    ],
)
def test_weights_are_stored_in_two_dims_on_many_devices(
    dimensions, num_devices, table, data, model
):
    found, mesh = choose_storage(dimensions, num_devices)
    assert (found, mesh[axes.DATA], mesh[axes.MODEL]) == (table, data, model)


@pytest.mark.parametrize("num_devices", [1, 2, 3, 6, 7, 24, 100])
def test_any_number_of_devices_and_any_heads_have_a_storage(num_devices):
    for heads in (1, 5, 48):
        _, mesh = choose_storage(palm(96, heads, 2), num_devices)
        assert math.prod(mesh.values()) == num_devices


@pytest.mark.parametrize(
    ("sequences", "new_tokens", "table"),
    [
        (1, 1, "weights_2d"),
        (512, 1, "weights_2d"),
        (1, 2048, "weights_2d"),
        # A large prefill gathers weights (Pope et al., table 2), if each device has a sequence.
        (512, 2048, "weights_gathered"),
        (500, 2048, "weights_2d"),
    ],
)
def test_weights_are_gathered_for_a_large_prefill_alone(sequences, new_tokens, table):
    assert chosen(PALM_540B, 64, sequences, new_tokens).table == table


def test_the_reason_states_what_moves_and_over_how_many_devices_the_cache_lies():
    why = chosen(PALM_540B, 64, 64, 1).why
    assert "a layer's sums move 3.56 MiB" in why and "gathering its weights 8.31 GiB" in why
    assert "the cache of 64 sequence(s) is split over 64 of 64 devices" in why
    assert chosen(PALM_8B, 1, 4, 1).why == "there is one device"
