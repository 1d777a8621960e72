import dataclasses

import jax
import jax.numpy as jnp
import pytest

from palmscale.observe.throughput import peak_flops_per_device
from palmscale.plan.hardware.chips import CHIPS
from palmscale.plan.hardware.topology import parse
from palmscale.plan.program import hlo

PEAKS = {"v4": 275e12, "v5e": 197e12, "v5p": 459e12, "v6e": 918e12, "tpu7x": 2307e12}


def test_a_run_and_a_plan_know_the_same_peak():
    assert {name: chip.peak_flops for name, chip in CHIPS.items()} == PEAKS
    for chip in CHIPS.values():
        assert chip.device_peak_flops == peak_flops_per_device(chip.device_kind)


@pytest.mark.parametrize("name", CHIPS)
def test_the_compilers_devices_have_the_kind_that_is_stated(name):
    kind = parse(f"{name}:{'2x2' if CHIPS[name].torus_dims == 2 else '2x2x1'}").describe()[0]
    assert peak_flops_per_device(kind.device_kind) == CHIPS[name].device_peak_flops


def test_a_chip_of_two_devices_shares_its_peak():
    assert CHIPS["tpu7x"].device_peak_flops == CHIPS["tpu7x"].peak_flops / 2


def test_an_unknown_clock_has_no_flops_per_cycle():
    assert CHIPS["tpu7x"].clock_hz is None and CHIPS["tpu7x"].flops_per_cycle is None


@pytest.mark.parametrize("name", [name for name, chip in CHIPS.items() if chip.clock_hz])
def test_the_compilers_fastest_matmul_is_near_the_peak_by_the_clock(name):
    device = parse(f"{name}:{'2x2' if CHIPS[name].torus_dims == 2 else '2x2x1'}").describe()[0]
    rates = []
    for size in (4096, 16384):
        whole = jax.sharding.SingleDeviceSharding(device)
        x = jax.ShapeDtypeStruct((size, size), jnp.bfloat16, sharding=whole)
        program = hlo.parse(jax.jit(jnp.matmul).lower(x, x).compile().as_text())
        cycles = sum(one.cycles for one in program.computations[program.entry])
        rates.append(2 * size**3 / cycles)
    assert 0.85 < max(rates) / CHIPS[name].flops_per_cycle < 1


def test_a_kind_without_a_peak_is_named():
    unknown = dataclasses.replace(CHIPS["v4"], device_kind="TPU v99")
    with pytest.raises(ValueError, match="no peak of TPU v99"):
        _ = unknown.peak_flops
