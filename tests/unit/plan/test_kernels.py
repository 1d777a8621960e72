from small_program import TEXT

from palmscale.plan import hlo
from palmscale.plan.kernels import kernel_flops

BODY = {i.name: i for i in hlo.parse(TEXT).computations["body"]}


def test_a_forward_kernel_computes_scores_and_values_for_half_of_all_pairs():
    assert kernel_flops(BODY["kernel"]) == 2 * 2 * (4 * 2 * 2048 * 2048 / 2) * 128


def test_other_instructions_are_no_kernels():
    assert kernel_flops(BODY["beside"]) == 0
