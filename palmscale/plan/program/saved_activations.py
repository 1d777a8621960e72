"""The activations saved for the backward pass, read from the traced step before it compiles."""

from collections.abc import Collection
from typing import Any

import jax

from palmscale.plan.program.flops import inner_jaxprs

Saved = tuple[str, tuple[int, ...], int]


def saved_arrays(
    traced: jax.stages.Traced, layers: int, param_shapes: Collection[tuple[int, ...]]
) -> list[Saved]:
    """Returns (dtype, shape, bytes of all devices) of what loops over layers save, largest first.

    Omits gradients, which have the shapes of parameters, and arrays of less than 1 MiB.
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
            arrays += _stacked_outputs(equation, layers)
        for inner in inner_jaxprs(equation.params):
            arrays += _stacked(inner, layers)
    return arrays


def _stacked_outputs(scan: Any, layers: int) -> list[Any]:
    """Returns the shapes of what a scan stacks: one slice per layer, unlike what it carries."""
    slices = scan.params["jaxpr"].out_avals
    return [
        out.aval
        for out, one in zip(scan.outvars, slices, strict=True)
        if out.aval.shape == (layers, *one.shape)
    ]
