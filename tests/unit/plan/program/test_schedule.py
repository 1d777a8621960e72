import pytest
from small_program import MESH, TEXT, network

from palmscale.plan.program import collectives, hlo
from palmscale.plan.program.compute import expected_seconds
from palmscale.plan.program.schedule import Times, step_times

PROGRAM = hlo.parse(TEXT)
TRAFFIC = collectives.find(PROGRAM, MESH, network())
GATHER, SCATTER, SUM = (
    TRAFFIC.found[name].seconds for name in ("all-gather-start.1", "scattered", "all-reduce.2")
)


def times(clock_hz, kernel=0.0):
    return step_times(
        PROGRAM,
        TRAFFIC,
        compute_seconds=expected_seconds(clock_hz),
        kernel_seconds=lambda call: kernel if "tpu_custom_call" in call.attributes else 0.0,
    )


def test_compute_is_cycles_times_trips_and_kernels():
    found = times(1e6, kernel=0.5)
    assert found.compute == pytest.approx((3 * 2000 + 500) / 1e6 + 3 * 0.5)
    assert found.kernels == pytest.approx(1.5)


def test_a_collective_that_is_covered_costs_nothing_but_when_nothing_overlaps():
    slow_chip = times(1e6)  # its matmul takes longer than the gather
    assert slow_chip.exposed["data"] == pytest.approx(3 * SCATTER)
    assert slow_chip.exposed["model"] == pytest.approx(SUM)
    assert slow_chip.overlapped == pytest.approx(slow_chip.compute + 3 * SCATTER + SUM)
    assert slow_chip.serial == pytest.approx(slow_chip.overlapped + 3 * GATHER)


def test_what_is_not_covered_is_waited_for():
    fast_chip = times(1e12)
    assert fast_chip.exposed["data"] == pytest.approx(3 * (SCATTER + GATHER), rel=1e-3)
    assert fast_chip.overlapped <= fast_chip.serial


def test_times_add_up():
    one = Times(1.0, 0.5, {"data": 0.25}, {"data": 0.5})
    both = one.plus(one, 2)
    assert (both.compute, both.overlapped, both.serial) == (3.0, 3.75, 4.5)
