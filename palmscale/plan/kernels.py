"""What Pallas kernels compute: the compiler knows none of their cycles, so arithmetic adds them."""

import re

from palmscale.plan import hlo
from palmscale.plan.hlo import Instruction

# Matmuls of one query against one key, causal: half of all pairs. Forward: scores and values.
# Backward: scores again and four gradients, of which two kernels share (arXiv:2307.08691, 3.1.2);
# or one kernel makes all, and of each block of keys a part of the queries' gradient.
_SPLASH_MATMULS = {"fwd": 2, "dq": 3, "dkv": 4}
_FUSED_MATMULS = 5
_OPERANDS = re.compile(r"operand_layout_constraints=\{(.*?\})\}")


def kernel_flops(call: Instruction) -> float:
    """Returns the FLOPs of one execution on one device; 0 for calls that are no kernel of ours."""
    if 'custom_call_target="tpu_custom_call"' not in call.attributes:
        return 0.0
    found = re.search(r"splash_m[hq]a_(fwd|dq|dkv)", call.attributes)
    operands = _OPERANDS.search(call.attributes)
    if not found or not operands:
        return 0.0
    # Queries are the first that are no integers; of the results, keys' gradients have fewer heads.
    queries = next(shape for dtype, shape in hlo.arrays(operands[1]) if "f" in dtype)
    *outer, length, head_size = queries
    pairs = length * length / 2
    for size in outer:
        pairs *= size
    is_fused = any(len(shape) > len(queries) for _, shape in hlo.arrays(call.type))
    return (_FUSED_MATMULS if is_fused else _SPLASH_MATMULS[found[1]]) * 2 * pairs * head_size
