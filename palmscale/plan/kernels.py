"""What Pallas kernels compute: the compiler knows none of their cycles, so arithmetic adds them."""

import re

from palmscale.plan import hlo
from palmscale.plan.hlo import Instruction

# Matmuls of one query against one key, causal: half of all pairs. Forward: scores and values.
# Backward: scores again and four gradients, of which two kernels share (arXiv:2307.08691, 3.1.2).
_SPLASH_MATMULS = {"fwd": 2, "dq": 3, "dkv": 4}


def kernel_flops(call: Instruction) -> float:
    """Returns the FLOPs of one execution on one device; 0 for calls that are no kernel of ours."""
    if 'custom_call_target="tpu_custom_call"' not in call.attributes:
        return 0.0
    found = re.search(r"splash_m[hq]a_(fwd|dq|dkv)", call.attributes)
    if not found:
        return 0.0
    queries = max((shape for _, shape in hlo.arrays(call.type)), key=len)
    *outer, length, head_size = queries
    pairs = length * length / 2
    for size in outer:
        pairs *= size
    return _SPLASH_MATMULS[found[1]] * 2 * pairs * head_size
