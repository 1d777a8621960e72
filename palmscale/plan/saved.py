"""What the backward pass finds saved, read from the traced step: known before anything compiles."""

from collections.abc import Collection
from typing import Any

import jax

from palmscale.plan.flops import inner_jaxprs

Saved = tuple[str, tuple[int, ...], int]


def saved_arrays(
    traced: jax.stages.Traced, layers: int, param_shapes: Collection[tuple[int, ...]]
) -> list[Saved]:
    """Returns (dtype, shape, bytes of all devices) of what loops over layers leave, largest first.

    Gradients, which have the shapes of parameters, and arrays of less than 1 MiB are left out.
    """
    found = {
        (aval.dtype.name, aval.shape, aval.size * aval.dtype.itemsize)
        for aval in _stacked(traced.jaxpr.jaxpr, layers)
        if aval.shape not in param_shapes
    }
    return sorted((one for one in found if one[2] >= 2**20), key=lambda one: -one[2])


def _stacked(jaxpr: Any, layers: int) -> list[Any]:
    arrays = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan" and equation.params["length"] == layers:
            carried = equation.params["num_carry"]
            arrays += [out.aval for out in equation.outvars[carried:] if out.aval.ndim]
        for inner in inner_jaxprs(equation.params):
            arrays += _stacked(inner, layers)
    return arrays
