"""Averages of the parameters of several steps, summed in float32 from the newest."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from palmscale.checkpoint.reader import CheckpointReader, Convert, Snapshot
from palmscale.checkpoint.summary import mismatches
from palmscale.errors import UserError
from palmscale.storage.tensor import Part, Tensor, Tensors


def last_steps(steps: Sequence[int], last: int, average: int) -> list[int]:
    """Returns the `average` steps up to `last`, newest first.

    Args:
        steps: all verified ones, oldest first.
        last: one of them.
        average: 1 or more.

    Raises:
        UserError: there are fewer.
    """
    found = [step for step in steps if step <= last]
    if not 1 <= average <= len(found):
        raise UserError(
            f"average={average} is out of range: {len(found)} verified checkpoint(s) exist up to"
            f" step {last}; keep more (KeepPolicy.latest), or average fewer."
        )
    return found[-average:][::-1]


def averaged_in_parts(reader: CheckpointReader, steps: Sequence[int]) -> Tensors:
    """Returns the averages of the steps' parameters, which are read in parts.

    Raises:
        CorruptionError: a step is damaged.
        UserError: the steps do not have the same parameters.
    """
    found = [reader.params_in_parts(step) for step in steps]
    if len(found) == 1:
        return found[0]
    stated = [
        {name: {"shape": [*t.shape], "dtype": str(t.dtype)} for name, t in tensors.items()}
        for tensors in found
    ]
    for step, shapes in zip(steps, stated, strict=True):
        if wrong := mismatches(shapes, stated[0]):
            raise UserError(
                f"the checkpoints of steps {step} and {steps[0]} cannot be averaged:"
                f" {'; '.join(wrong)}."
            )
    return {name: _average([tensors[name] for tensors in found]) for name in found[0]}


def _average(tensors: Sequence[Tensor]) -> Tensor:
    def read(part: Part) -> np.ndarray:
        total = tensors[0].read_part(part).astype(np.float32)
        for tensor in tensors[1:]:
            total += tensor.read_part(part).astype(np.float32)
        return (total * np.float32(1 / len(tensors))).astype(tensors[0].dtype)

    return Tensor(tensors[0].shape, tensors[0].dtype, read)


def restore_averaged(
    reader: CheckpointReader,
    step: int | Literal["best"] | None,
    average: int,
    *,
    abstract_params: Any,
    convert: Convert | None = None,
) -> Snapshot | None:
    """Restores a step as `CheckpointReader.restore` does, with the averages of `average` steps.

    Two copies of the parameters exist at a time. All processes must call this.

    Raises:
        CorruptionError: a step is damaged.
        UserError: there are fewer steps, or one does not have these parameters.
    """
    snapshot = reader.restore(step, abstract_params=abstract_params, convert=convert)
    if snapshot is None or average == 1:
        return snapshot
    if convert is not None or not _are_floats(snapshot.params):
        raise UserError(
            f"average={average}: quantized weights are not averaged; load the average without"
            " quantizing, or export it and quantize that."
        )
    params = snapshot.params
    for earlier in last_steps(reader.verified_steps(), snapshot.step, average)[1:]:
        restored = reader.restore(earlier, abstract_params=abstract_params, convert=convert)
        assert restored is not None, "a numbered step is there, or raises"
        params = _added(params, restored.params)
    return dataclasses.replace(snapshot, params=_scaled(params, 1 / average))


@functools.partial(jax.jit, donate_argnums=0)
def _added(total: Any, params: Any) -> Any:
    return jax.tree.map(jnp.add, total, params)


@functools.partial(jax.jit, donate_argnums=0)
def _scaled(total: Any, factor: jax.Array) -> Any:
    return jax.tree.map(lambda leaf: (leaf * factor).astype(leaf.dtype), total)


def _are_floats(tree: Any) -> bool:
    return all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(tree))
