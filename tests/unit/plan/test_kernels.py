import dataclasses

import pytest
from small_program import TEXT

from palmscale.plan import hlo
from palmscale.plan.kernels import kernel_flops

BODY = {i.name: i for i in hlo.parse(TEXT).computations["body"]}


def test_a_forward_kernel_computes_scores_and_values_for_half_of_all_pairs():
    assert kernel_flops(BODY["kernel"]) == 2 * 2 * (4 * 2 * 2048 * 2048 / 2) * 128


SHARED, WHOLE = "bf16[4,2048,128]{2,1,0}", "bf16[4,2,2048,128]{3,2,1,0}"


@pytest.mark.parametrize(
    ("kernel", "type_text", "matmuls"),
    [
        ("dq", f"(f32[512,128]{{1,0}}, {WHOLE})", 3),
        # One key and value for all heads: what comes out has no heads, the work has.
        ("dkv", f"(f32[512,128]{{1,0}}, f32[512,128]{{1,0}}, {SHARED}, {SHARED})", 4),
        ("dkv", f"(bf16[4,4,2,2048,128]{{4,3,2,1,0}}, f32[512,128]{{1,0}}, {SHARED}, {SHARED})", 5),
    ],
)
def test_a_backward_kernel_computes_for_each_head_of_the_queries(kernel, type_text, matmuls):
    call = BODY["kernel"]
    attributes = call.attributes.replace("splash_mqa_fwd", f"splash_mqa_{kernel}")
    backward = dataclasses.replace(call, type=type_text, attributes=attributes)
    assert kernel_flops(backward) == matmuls / 2 * kernel_flops(call)


def test_other_instructions_are_no_kernels():
    assert kernel_flops(BODY["beside"]) == 0
