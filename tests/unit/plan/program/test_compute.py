import pytest

from palmscale.plan.hardware.chips import CHIPS
from palmscale.plan.program import hlo
from palmscale.plan.program.compute import expected_seconds, least_matmul_seconds, least_seconds

PROGRAM = hlo.parse(
    """\
HloModule jit_step, is_scheduled=true

%matmul (a: bf16[8,8]) -> f32[8,8] {
  %a = bf16[8,8]{1,0} parameter(0)
  ROOT %conv = f32[8,8]{1,0} convolution(%a, %a), dim_labels=bf_io->bf
}

%norm (b: f32[8,8]) -> f32[8,8] {
  %b = f32[8,8]{1,0} parameter(0)
  %inner = f32[8,8]{1,0} fusion(%b), kind=kLoop, calls=%scale
  ROOT %sum = f32[8,8]{1,0} add(%b, %inner)
}

%scale (c: f32[8,8]) -> f32[8,8] {
  %c = f32[8,8]{1,0} parameter(0)
  ROOT %twice = f32[8,8]{1,0} add(%c, %c)
}

%both (d: f32[8,8]) -> f32[8,8] {
  %d = f32[8,8]{1,0} parameter(0)
  ROOT %nested = f32[8,8]{1,0} fusion(%d), kind=kOutput, calls=%matmul
}

ENTRY %main (x: bf16[8,8]) -> f32[8,8] {
  %x = bf16[8,8]{1,0} parameter(0)
  %first = f32[8,8]{1,0} fusion(%x), kind=kOutput, calls=%matmul, backend_config={"estimated_cycles":"600"}
  %second = f32[8,8]{1,0} fusion(%first), kind=kLoop, calls=%norm, backend_config={"estimated_cycles":"100"}
  ROOT %third = f32[8,8]{1,0} fusion(%second), kind=kOutput, calls=%both, backend_config={"estimated_cycles":"400"}
}
"""  # noqa: E501
)
FIRST, SECOND, THIRD = PROGRAM.computations["main"][1:]


def test_the_compilers_cycles_are_the_expectation():
    assert expected_seconds(1e3)(FIRST) == pytest.approx(0.6)


def test_at_least_matmuls_share_what_the_peak_allows_and_the_rest_takes_its_cycles():
    seconds = least_seconds(PROGRAM, 1e3, matmul_seconds=0.5)
    assert [seconds(one) for one in (FIRST, SECOND, THIRD)] == pytest.approx([0.3, 0.1, 0.2])


def test_the_best_is_never_slower_than_the_expectation():
    assert least_seconds(PROGRAM, 1e3, matmul_seconds=9.0)(FIRST) == pytest.approx(0.6)


def test_no_matmul_is_faster_than_the_peak_or_than_reading_its_weights():
    v5e = CHIPS["v5e"]
    assert least_matmul_seconds(v5e, 197e12, 0) == 1.0
    assert least_matmul_seconds(v5e, 0.0, 400 * 10**9) == pytest.approx(0.5)
    # Two devices of one TPU7x share its memory.
    two = CHIPS["tpu7x"]
    assert least_matmul_seconds(two, 0.0, 10**12) == pytest.approx(2e12 / two.hbm_bytes_per_second)
