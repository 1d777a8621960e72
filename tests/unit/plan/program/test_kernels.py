import dataclasses

from small_program import TEXT

from palmscale.plan.program import hlo
from palmscale.plan.program.kernels import kernel_flops

BODY = {i.name: i for i in hlo.parse(TEXT).computations["body"]}
# 4 rows, 2 heads of 128, 2,048 positions in 4 blocks: 10 of 16 lie on or below the diagonal.
MATMUL = 2 * 4 * 2 * 2048 * 2048 * 10 / 16 * 128


def kernel(name, made="bf16[4,2048,128]{2,1,0}"):
    return dataclasses.replace(
        BODY["kernel"],
        name=name,
        type=made,
        attributes=BODY["kernel"].attributes.replace("fwd", ""),
    )


def test_a_forward_kernel_computes_scores_and_values_of_whole_blocks():
    assert kernel_flops(BODY["kernel"]) == 2 * MATMUL


def test_backward_kernels_compute_scores_again():
    assert kernel_flops(kernel("splash_mqa_dq")) == 3 * MATMUL
    assert kernel_flops(kernel("splash_mqa_dkv")) == 4 * MATMUL
    assert kernel_flops(kernel("splash_mqa_dkv", "bf16[4,4,2,2048,128]{4,3,2,1,0}")) == 5 * MATMUL


def test_other_instructions_are_no_kernels():
    assert kernel_flops(BODY["beside"]) == 0
    assert kernel_flops(kernel("something_else")) == 0
