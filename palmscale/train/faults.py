"""Faults put into a run on purpose, to try what it does about them.

A fault belongs to a row of the data, the first of the step that it is named by: where that row is
skipped the fault is gone, as one would be that the data had caused. The reported loss is never
touched: parameters or gradients are, and the loss follows.
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
_PUSH = 8.0  # times a parameter: far enough that a few steps do not mend it


@dataclasses.dataclass(frozen=True)
class Fault:
    """A fault of a `kind` at a step: `spike` pushes the parameters, `nan` spoils the gradients."""

    kind: str
    step: int


def parse_faults(text: str) -> tuple[Fault, ...]:
    """Returns the faults that a text such as `spike@120,nan@200` names.

    Raises:
        UserError: it names none.
    """
    faults = []
    for part in filter(None, map(str.strip, text.split(","))):
        match = re.fullmatch(rf"({SPIKE}|{NAN})@(\d+)", part)
        if not match:
            raise UserError(
                f"--inject has {part!r} - needed is KIND@STEP with KIND {SPIKE} or {NAN} - write"
                f" for example --inject={SPIKE}@120,{NAN}@200"
            )
        faults.append(Fault(match[1], int(match[2])))
    return tuple(faults)


def faulty(
    train_step: TrainStep,
    nan_step: TrainStep,
    faults: Sequence[Fault],
    stream: RowStream,
) -> Callable[[Cursor], TrainStep]:
    """Returns a function of the cursor: the step to run there.

    Args:
        train_step: without a fault.
        nan_step: the same with spoiled gradients.
        faults: by step; they stay with the rows that those steps have where nothing is skipped.
        stream: tells the rows.
    """
    by_row = {stream.schedule.rows_before(fault.step): fault for fault in faults}

    def step_at(cursor: Cursor) -> TrainStep:
        here = [by_row[row] for row in map(int, stream.batch_rows(cursor)) if row in by_row]
        if not here:
            return train_step
        log.warn(f"step {cursor.step + 1}: --inject puts in {', '.join(f.kind for f in here)}.")
        step = nan_step if any(fault.kind == NAN for fault in here) else train_step
        return _pushed(step) if any(fault.kind == SPIKE for fault in here) else step

    return step_at if by_row else lambda cursor: train_step


def spoil(grads: Any) -> Any:
    """Returns gradients of the same shapes none of whose elements is a number."""
    return jax.tree.map(lambda g: jnp.full_like(g, jnp.nan), grads)


def _pushed(step: TrainStep) -> TrainStep:
    push = jax.jit(lambda params: jax.tree.map(lambda p: _PUSH * p, params))

    def pushed(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        return step(state.replace(params=push(state.params)), batch)

    return pushed
