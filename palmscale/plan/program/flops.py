"""The matmul FLOPs of a step, counted in the program as JAX traced it.

XLA's cost analysis counts the body of a loop once and is silent about Pallas kernels; a jaxpr has
the lengths of its loops, and contains what rematerialization recomputes.
"""

import math
from typing import Any

import jax

_CLOSED = ("jaxpr", "call_jaxpr", "fun_jaxpr", "body_jaxpr", "cond_jaxpr")


def matmul_flops(traced: jax.stages.Traced) -> float:
    """Returns the FLOPs of all matmuls of a traced function, over all devices together.

    A loop counts as often as it runs, a conditional as its largest branch. Kernels are not counted
    here, but in the compiled program (kernels.py).
    """
    return _count(traced.jaxpr.jaxpr)


def _count(jaxpr: Any) -> float:
    return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _dot(equation)
    if name == "pallas_call":
        return 0.0
    if name == "cond":
        return max(_count(branch.jaxpr) for branch in params["branches"])
    times = params["length"] if name == "scan" else 1
    if name == "shard_map":
        times = math.prod(params["mesh"].shape.values())
    return times * sum(_count(inner) for inner in inner_jaxprs(params))


def inner_jaxprs(params: dict[str, Any]) -> list[Any]:
    """Returns the jaxprs that an equation with these parameters runs, conditionals apart."""
    found = []
    for key in _CLOSED:
        if key in params and params[key] is not None:
            inner = params[key]
            found.append(getattr(inner, "jaxpr", inner))
    return found


def _dot(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval
    inner = math.prod(left.shape[dim] for dim in contracted)
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * inner
