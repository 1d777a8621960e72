"""The loop: dispatch step n, then read the metrics of step n - 1 while n runs."""

import dataclasses
from collections.abc import Callable, Mapping

import jax

from palmscale.data.feed import Feed
from palmscale.data.stream import Cursor, RowStream
from palmscale.errors import UserError
from palmscale.observe import log
from palmscale.observe.throughput import Throughput
from palmscale.train.state import TrainState
from palmscale.train.step import Metrics, TrainStep

Report = Callable[[int, Mapping[str, float]], None]
Evaluate = Callable[[TrainState], dict[str, float]]
Save = Callable[[int, TrainState, Cursor, Mapping[str, float]], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Periods:
    """How often something happens, in steps; the last step evaluates and saves in any case."""

    eval_every_steps: int | None
    save_every_steps: int | None
    rates_every_steps: int = 10

    def __post_init__(self) -> None:
        for field, value in dataclasses.asdict(self).items():
            if value is not None and value < 1:
                raise UserError(f"{field.upper()}={value} must be at least 1, or None for never.")


def train(
    state: TrainState,
    *,
    train_step: TrainStep,
    feed: Feed,
    stream: RowStream,
    cursor: Cursor,
    train_steps: int,
    periods: Periods,
    throughput: Throughput,
    report: Report,
    evaluate: Evaluate,
    save: Save,
) -> TrainState:
    """Returns the state after `train_steps` steps in all.

    Args:
        state: at `cursor`; donated.
        train_step: compiled on first use, donating its state.
        feed: yields the batches from `cursor` on.
        stream: tells the cursor that follows another, and the epochs before one.
        cursor: of the first step to run.
        train_steps: steps done at the end, those before `cursor` included.
        periods: of evaluation, saving and rates.
        throughput: counts tokens and waiting.
        report: takes (steps done, metrics), once for every step and in order.
        evaluate: returns held-out metrics of a state.
        save: takes (steps done, state, cursor of the next step, held-out metrics).
    """
    pending: tuple[int, Metrics] | None = None

    def finish(held_out: Mapping[str, float] | None = None) -> None:
        """Reads the metrics of the step in flight, which waits for it, and reports them."""
        nonlocal pending
        if pending is None:
            return
        (step, on_device), pending = pending, None
        metrics = {name: float(value) for name, value in jax.device_get(on_device).items()}
        if metrics["skipped"]:
            log.warn(f"step {step}: loss or gradient is not finite; the parameters were kept.")
        throughput.add(int(metrics["tokens"]))
        rates = {}
        if step % periods.rates_every_steps == 0:
            rates = throughput.report() | stream.epochs(cursor)
        report(step, metrics | rates | dict(held_out or {}))

    while cursor.step < train_steps:
        with throughput.waiting_for_input():
            cursor, batch = next(feed)
        state, metrics = train_step(state, batch)
        finish()
        cursor = stream.advance(cursor)
        step = cursor.step
        pending = step, metrics
        evaluates = _is_due(step, train_steps, periods.eval_every_steps)
        saves = _is_due(step, train_steps, periods.save_every_steps)
        if evaluates or saves:
            # Programs that share devices must not overlap: simulated devices would deadlock.
            jax.block_until_ready(state)
            with throughput.paused():
                held_out = evaluate(state) if evaluates else {}
            finish(held_out)
            if saves:
                save(step, state, cursor, held_out)
    finish()
    return state


def _is_due(step: int, last_step: int, every_steps: int | None) -> bool:
    return step == last_step or (every_steps is not None and step % every_steps == 0)
