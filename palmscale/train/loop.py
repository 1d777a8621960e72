"""The loop: dispatch step n, then read the metrics of step n - 1 while n runs."""

import contextlib
import dataclasses
import gc
from collections.abc import Callable, Iterator, Mapping

import jax

from palmscale.data.stream import Batch, Cursor, RowStream
from palmscale.errors import UserError
from palmscale.observe import log
from palmscale.observe.throughput import Throughput
from palmscale.train.spike import Spike
from palmscale.train.state import TrainState
from palmscale.train.step import Metrics, TrainStep

# Where `beat` says that the loop is.
INPUT, DEVICES, EVALUATION, SAVING, REWINDING = "input", "devices", "evaluation", "saving", "rewind"
_COLLECT_EVERY_STEPS = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Periods:
    """How often something happens, in steps; the last step evaluates and saves in any case.

    `check_every_steps` is that of the check that copies of an array on several devices are equal.
    `save_every_seconds` saves besides, where so long nothing has been saved.
    """

    eval_every_steps: int | None
    save_every_steps: int | None
    rates_every_steps: int = 10
    check_every_steps: int | None = None
    save_every_seconds: float | None = None

    def __post_init__(self) -> None:
        for field, value in dataclasses.asdict(self).items():
            if value is not None and value < 1:
                raise UserError(f"{field.upper()}={value} must be at least 1, or None for never.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hooks:
    """What the loop calls. With several hosts all call the same, and get the same answers.

    Attributes:
        report: takes (steps done, metrics), once for every step and in order.
        evaluate: returns held-out metrics of a state.
        save: takes (steps done, state, cursor of the next step, held-out metrics).
        find_spike: takes (steps done, metrics) of every step; returns a spike to rewind from.
        rewind: takes the spike; returns the state and cursor to go on from.
        is_save_due: takes the steps done; whether to save out of turn.
        is_preempted: takes the steps done; whether to save and end there.
        check: takes (steps done, state), at its period; raises where something is wrong.
        beat: takes where the loop is and the step about to be done, ahead of anything that waits.
    """

    report: Callable[[int, Mapping[str, float]], None]
    evaluate: Callable[[TrainState], dict[str, float]]
    save: Callable[[int, TrainState, Cursor, Mapping[str, float]], None]
    find_spike: Callable[[int, Mapping[str, float]], Spike | None] = lambda step, metrics: None
    rewind: Callable[[Spike], tuple[TrainState, Cursor]] | None = None
    is_save_due: Callable[[int], bool] = lambda step: False
    is_preempted: Callable[[int], bool] = lambda step: False
    check: Callable[[int, TrainState], None] = lambda step, state: None
    beat: Callable[[str, int], None] = lambda where, step: None


def train(
    state: TrainState,
    *,
    step_at: Callable[[Cursor], TrainStep],
    feed: Iterator[tuple[Cursor, Batch]],
    stream: RowStream,
    cursor: Cursor,
    train_steps: int,
    periods: Periods,
    throughput: Throughput,
    hooks: Hooks,
) -> tuple[TrainState, Cursor]:
    """Returns the state after `train_steps` steps in all, or where the run was preempted.

    The cursor that comes with it is that of the next step.

    Args:
        state: at `cursor`; donated.
        step_at: returns the step to run at a cursor, which donates its state.
        feed: yields the batches from `cursor` on.
        stream: tells the cursor that follows another, and the epochs before one.
        cursor: of the first step to run.
        train_steps: steps done at the end, those before `cursor` included.
        periods: of evaluation, saving and rates.
        throughput: counts tokens and waiting.
        hooks: everything that happens besides.
    """
    loop = _Loop(step_at, feed, stream, train_steps, periods, throughput, hooks)
    ends = False
    with _garbage_collected_together() as collect_garbage:
        while cursor.step < train_steps and not ends:
            state, cursor, spike, ends = loop.step(state, cursor)
            if spike is not None and hooks.rewind is not None:
                # Programs that share devices must not overlap: simulated devices would deadlock.
                jax.block_until_ready(state)
                hooks.beat(REWINDING, cursor.step)
                state, cursor = hooks.rewind(spike)
            if cursor.step % _COLLECT_EVERY_STEPS == 0:
                collect_garbage()
    return state, cursor


class _Loop:
    """One step at a time; between two steps, the metrics of the last one are still to be read."""

    def __init__(
        self,
        step_at: Callable[[Cursor], TrainStep],
        feed: Iterator[tuple[Cursor, Batch]],
        stream: RowStream,
        train_steps: int,
        periods: Periods,
        throughput: Throughput,
        hooks: Hooks,
    ) -> None:
        self._step_at, self._feed, self._stream = step_at, feed, stream
        self._train_steps, self._periods = train_steps, periods
        self._throughput, self._hooks = throughput, hooks
        self._pending: tuple[int, Metrics] | None = None

    def step(
        self, state: TrainState, cursor: Cursor
    ) -> tuple[TrainState, Cursor, Spike | None, bool]:
        """Does one step; returns state and cursor after it, a spike found, whether to end."""
        hooks = self._hooks
        hooks.beat(INPUT, cursor.step + 1)
        with self._throughput.waiting_for_input():
            cursor, batch = next(self._feed)
        state, metrics = self._step_at(cursor)(state, batch)
        spike = self._finish(cursor)
        cursor = self._stream.advance(cursor)
        if spike is not None:
            return state, cursor, spike, False
        self._pending = cursor.step, metrics
        ends = hooks.is_preempted(cursor.step)
        evaluates = self._is_due(cursor.step, self._periods.eval_every_steps) and not ends
        saves = self._is_due(cursor.step, self._periods.save_every_steps) or ends
        saves = hooks.is_save_due(cursor.step) or saves
        every = self._periods.check_every_steps
        checks = every is not None and self._is_due(cursor.step, every)
        if evaluates or saves or checks:
            hooks.beat(DEVICES, cursor.step)
            jax.block_until_ready(state)
            hooks.beat(EVALUATION, cursor.step)
            with self._throughput.paused():
                held_out = hooks.evaluate(state) if evaluates else {}
            spike = self._finish(cursor, held_out)
            if spike is None and checks:
                hooks.check(cursor.step, state)
            if spike is None and saves:
                hooks.beat(SAVING, cursor.step)
                hooks.save(cursor.step, state, cursor, held_out)
        return state, cursor, spike, ends

    def _finish(self, cursor: Cursor, held_out: Mapping[str, float] = {}) -> Spike | None:
        """Reads the metrics of the step in flight, which waits for it, and reports them."""
        if self._pending is None:
            return None
        (step, on_device), self._pending = self._pending, None
        self._hooks.beat(DEVICES, cursor.step + 1)
        metrics = {name: float(value) for name, value in jax.device_get(on_device).items()}
        if metrics["skipped"]:
            log.warn(f"step {step}: loss or gradient is not finite; the parameters were kept.")
        self._throughput.add(int(metrics["tokens"]))
        rates = {}
        if step % self._periods.rates_every_steps == 0:
            rates = self._throughput.report() | self._stream.epochs(cursor)
        self._hooks.report(step, metrics | rates | dict(held_out))
        return self._hooks.find_spike(step, metrics)

    def _is_due(self, step: int, every_steps: int | None) -> bool:
        last = step == self._train_steps
        return last or (every_steps is not None and step % every_steps == 0)


@contextlib.contextmanager
def _garbage_collected_together() -> Iterator[Callable[[], None]]:
    """Keeps Python's collector from pausing one host while the others wait; all collect at once."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield lambda: gc.collect(1)
    finally:
        if was_enabled:
            gc.enable()
