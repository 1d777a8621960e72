"""Fault injection, to test how a run recovers.

A fault is tied to a row of the data: the first row of the step at which it is specified. If that
row is skipped, the fault does not occur, as with a fault that the data caused. Faults change
parameters or gradients, never the reported loss, which follows from them.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from palmscale.data.stream import Batch, Cursor, RowStream
from palmscale.errors import UserError
from palmscale.observe import log
from palmscale.train.state import TrainState
from palmscale.train.step import Metrics, TrainStep

SPIKE, NAN = "spike", "nan"
_PUSH = 8.0  # factor of the parameters: large enough that a few steps do not recover


@dataclasses.dataclass(frozen=True)
class Fault:
    """A fault at a step: `spike` scales the parameters, `nan` makes the gradients NaN."""

    kind: str
    step: int


def parse_faults(text: str) -> tuple[Fault, ...]:
    """Parses a list of faults such as `spike@120,nan@200`.

    Raises:
        UserError: an entry is not valid.
    """
    faults = []
    for part in filter(None, map(str.strip, text.split(","))):
        match = re.fullmatch(rf"({SPIKE}|{NAN})@(\d+)", part)
        if not match:
            raise UserError(
                f"faults has {part!r}, which is not a fault; expected KIND@STEP with KIND {SPIKE}"
                f" or {NAN}, for example {SPIKE}@120,{NAN}@200."
            )
        faults.append(Fault(match[1], int(match[2])))
    return tuple(faults)


def faulty(
    train_step: TrainStep,
    nan_step: TrainStep,
    faults: Sequence[Fault],
    stream: RowStream,
) -> Callable[[Cursor], TrainStep]:
    """Returns a function that maps a cursor to the step to run there.

    Args:
        train_step: the step without a fault.
        nan_step: the same step with NaN gradients.
        faults: faults by step; each is tied to a row of that step in a run without skipped rows.
        stream: provides the rows of a step.
    """
    by_row = {stream.schedule.rows_before(fault.step): fault for fault in faults}

    def step_at(cursor: Cursor) -> TrainStep:
        here = [by_row[row] for row in map(int, stream.batch_rows(cursor)) if row in by_row]
        if not here:
            return train_step
        log.warn(f"step {cursor.step + 1}: injecting {', '.join(f.kind for f in here)}.")
        step = nan_step if any(fault.kind == NAN for fault in here) else train_step
        return _pushed(step) if any(fault.kind == SPIKE for fault in here) else step

    return step_at if by_row else lambda cursor: train_step


def spoil(grads: Any) -> Any:
    """Returns gradients of the same shapes in which every element is NaN."""
    return jax.tree.map(lambda g: jnp.full_like(g, jnp.nan), grads)


def _pushed(step: TrainStep) -> TrainStep:
    push = jax.jit(lambda params: jax.tree.map(lambda p: _PUSH * p, params))

    def pushed(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        return step(state.replace(params=push(state.params)), batch)

    return pushed
