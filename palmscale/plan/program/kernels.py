"""FLOPs of Pallas kernels, whose cycles the compiler does not estimate."""

import math
import re

from palmscale.plan.program import hlo
from palmscale.plan.program.hlo import Instruction

# Matmuls of queries against keys. Forward: scores and values. Backward: scores again and the
# gradients of weights, values, keys and queries; where two kernels share it, both compute the first
# two (Dao 2023, arXiv:2307.08691, section 3.1).
_MATMULS = {"fwd": 2, "dq": 3, "dkv": 4}
_FUSED_BACKWARD = 5
_OPERANDS = re.compile(r"operand_layout_constraints=\{((?:[^{}]|\{[^}]*\})*)\}")


def kernel_flops(call: Instruction) -> float:
    """Returns the FLOPs of one execution on one device; 0 for calls of other kernels.

    Blocks on the diagonal count whole, since the kernel computes them whole.
    """
    if 'custom_call_target="tpu_custom_call"' not in call.attributes:
        return 0.0
    kernel = re.search(r"splash_m[hq]a_(fwd|dq|dkv)", call.name + call.op_name)
    given = _OPERANDS.search(call.attributes)
    if not kernel or not given:
        return 0.0
    operands = hlo.arrays(given[1])
    # Queries are the first that are no integers; of the results, keys' gradients have fewer heads.
    queries = next(shape for dtype, shape in operands if "f" in dtype)
    *outer, length, head_size = queries
    matmuls = _MATMULS[kernel[1]]
    if any(len(shape) > len(queries) for _, shape in hlo.arrays(call.type)):
        matmuls = _FUSED_BACKWARD  # it makes the queries' gradient too, a part for each block
    blocks = next((shape[-1] for dtype, shape in operands if dtype == "s8"), 0)
    share = (blocks + 1) / (2 * blocks) if blocks else 0.5
    return matmuls * 2 * math.prod(outer) * length * length * share * head_size
