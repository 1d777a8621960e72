"""The trainer: agree, compile, restore, loop, evaluate, save, rewind, on one process of a job.

The loop dispatches step n, then reads the metrics of step n - 1 while n runs. Every process of the
job takes the same decisions at the same step: they follow from metrics, which are alike
everywhere, or are taken by process 0 for all.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import NamedSharding

from palmscale.checkpoint.lease import check_shared
from palmscale.checkpoint.saving import Saving
from palmscale.checkpoint.store import CheckpointStore, Snapshot
from palmscale.cluster.agree import check_alike
from palmscale.cluster.job import Job
from palmscale.cluster.jointly import led
from palmscale.cluster.preempt import Preemption
from palmscale.data.feed import Feed, abstract_batch
from palmscale.data.stream import Cursor, RowStream
from palmscale.errors import AskedToEnd, CorruptionError, NotSaved
from palmscale.observe import log
from palmscale.observe.progress import Progress
from palmscale.observe.throughput import Throughput
from palmscale.observe.writers import Writers
from palmscale.optim.learning_rate import LearningRate
from palmscale.partition.layout import describe_mesh
from palmscale.storage.place import Place
from palmscale.train.compile import CompiledStep, Load
from palmscale.train.evaluate import Evaluation
from palmscale.train.garbage import garbage_collected_together
from palmscale.train.replica_check import first_difference
from palmscale.train.spike import Spike
from palmscale.train.spike_history import SpikeHistory
from palmscale.train.state import StatePlan, TrainState, init_state
from palmscale.train.step import Metrics, TrainStep
from palmscale.train.step_log import StepLog
from palmscale.train.training import Training

# What the loop may be waiting for, as the watchdog reports it.
INPUT, DEVICES, EVALUATION, SAVING, REWINDING = "input", "devices", "evaluation", "saving", "rewind"
_COLLECT_EVERY_STEPS = 100
_LOOK_AT_CLOCK_EVERY_STEPS = 10  # all processes do, and wait for process 0's

InitialParams = Callable[[], tuple[Mapping[str, Any], Mapping[str, Any] | None]]


@dataclasses.dataclass(kw_only=True)
class Trainer:
    """A run on this process: `agree`, `look`, `compile`, `resume_or_begin`, then `train`.

    Attributes:
        training: steps, batches and what a spike is.
        saving: when to save.
        job: the processes, and this one's watchdog.
        workdir: the run's folder, whose lease is held.
        model: with `hidden` and `unembed`.
        state_plan: of the model's state.
        step: the train step.
        step_at: the step to run at a cursor: `step`, unless faults are injected.
        stream: the batches.
        batch_sharding: of a [batch, length] array.
        store: the checkpoints, to be written.
        writers: of metrics; without any on a process that does not lead.
        learning_rate: of each step, where the optimizer's schedule is known.
        throughput: counts tokens and waiting.
        evaluations: run at their periods and at the last step.
        initial_params: returns the parameters of a warm start, by name, and what `meta` says of
            them; nothing and None without one.
        meta: what every checkpoint says of the run.
        step_log: what each step consumed.
        preemption: tells when the job was asked to end.
    """

    training: Training
    saving: Saving
    job: Job
    workdir: Place
    model: nn.Module
    state_plan: StatePlan
    step: CompiledStep
    step_at: Callable[[Cursor], TrainStep]
    stream: RowStream
    batch_sharding: NamedSharding
    store: CheckpointStore
    writers: Writers
    learning_rate: LearningRate
    throughput: Throughput
    evaluations: Sequence[Evaluation]
    initial_params: InitialParams
    meta: Mapping[str, Any]
    step_log: StepLog
    preemption: Preemption

    def __post_init__(self) -> None:
        self.last_metrics: dict[str, float] = {}
        self._spikes = SpikeHistory(self.training.spikes)
        self._warm_start: Mapping[str, Any] | None = None
        self._pending: tuple[int, Metrics] | None = None  # of the step in flight
        self._given: tuple[Mapping[str, Any], Mapping[str, Any] | None] | None = None
        self._evaluated: Mapping[str, float] | None = None  # at the last step

    # Agree and compile.

    def agree(self, facts: Mapping[str, str]) -> None:
        """Goes on only where all processes are about to do the same, in one workdir.

        Args:
            facts: of the run, that must be equal on all processes.

        Raises:
            UserError: a process differs; it is named.
            HostLost: a process did not come.
        """
        check_alike(self.job.peers, facts, self.job.deadlines.agree_seconds)
        check_shared(self.workdir, self.job.peers)

    def compile(self, load: Load | None = None) -> str:
        """Compiles the step, and returns its digest, which is the same on all processes.

        Args:
            load: loads the compiled step in place of compiling it.

        Raises:
            UserError: a process compiled another step; it is named.
            HostLost: a process did not come.
        """
        mesh = self.batch_sharding.mesh
        log.say(f"{'Loading' if load else 'Compiling'} the step for {describe_mesh(mesh)}.")
        digest = self.step.prepare(abstract_batch(self.stream, self.batch_sharding, 0), load)
        compiled = {"the compiled step": digest}
        check_alike(self.job.peers, compiled, self.job.deadlines.agree_seconds)
        return digest

    # Restore.

    def look(self) -> int:
        """Returns the newest verified step, 0 without one, before anything is compiled.

        Without one, it also reads the initial parameters: what is wrong with them is said now.
        """
        seconds = self.job.deadlines.agree_seconds
        latest = led(self.job.peers, "newest step", self.store.latest_verified, seconds)
        if latest is None:
            self._given = self.initial_params()
        return latest or 0

    def resume_or_begin(self, count: str) -> tuple[TrainState, Cursor]:
        """Resumes from the newest good checkpoint of this run, or begins at step 0.

        `count` says how large the model is.
        """
        where = f"{count} on {describe_mesh(self.batch_sharding.mesh)}"
        snapshot = self._restore(None)
        if snapshot is None:
            log.say(f"Beginning at step 0: {where}.")
            return self._begin()
        log.say(f"Resuming after step {snapshot.step:,}: {where}.")
        return self._from(snapshot)

    def _restore(self, step: int | None) -> Snapshot | None:
        abstract = self.state_plan.abstract
        optimizer = {"step": abstract.step, "state": abstract.optimizer_state}
        return self.store.restore(
            step, abstract_params=abstract.params, abstract_optimizer_state=optimizer
        )

    def _from(self, snapshot: Snapshot) -> tuple[TrainState, Cursor]:
        self._spikes = SpikeHistory.of(self.training.spikes, snapshot.meta)
        self._warm_start = snapshot.meta.get("warm_start")
        cursor = Cursor.from_json(snapshot.cursor)
        if cursor.step != snapshot.step:
            raise CorruptionError(
                f"the checkpoint of step {snapshot.step} holds the cursor of step {cursor.step};"
                " use an intact copy."
            )
        optimizer = snapshot.optimizer_state
        state = TrainState(optimizer["step"], snapshot.params, optimizer["state"])
        self.step_log.state(snapshot.step, {"params": snapshot.params, "optimizer": optimizer})
        return state, cursor

    def _begin(self) -> tuple[TrainState, Cursor]:
        self._spikes = SpikeHistory(self.training.spikes)
        given, self._warm_start = self._given or self.initial_params()
        self._given = None  # their memory may be the state's, which a step donates
        state = init_state(self.state_plan, self.model, seed=self.training.seed, given=given)
        return state, self.stream.cursor(0, self.training.skip_rows)

    # Loop.

    def train(self, state: TrainState, cursor: Cursor) -> tuple[TrainState, Cursor]:
        """Trains to the last step, or to where the job is asked to end, and saves there.

        Returns the state, and the cursor of the step that would follow. `state` is donated.

        Raises:
            NotSaved: the state could not be saved in the end.
            AskedToEnd: the same, of a job that was asked to end and may resume from an earlier
                step.
        """
        self.writers.truncate_from(cursor.step + 1)
        self.learning_rate.begin(state.optimizer_state)
        with (
            contextlib.closing(self.writers),
            Feed(self.stream, self.batch_sharding, cursor) as feed,
            self.preemption.training(),
            self._progress(cursor) as progress,
            garbage_collected_together() as collect_garbage,
        ):
            ends = False
            while cursor.step < self.training.steps and not ends:
                self._beat(INPUT, cursor.step + 1)
                with self.throughput.waiting_for_input():
                    cursor, batch = next(feed)
                self.step_log.batch(cursor.step, batch)
                state, metrics = self.step_at(cursor)(state, batch)
                spike = self._read_metrics(cursor, progress)
                cursor = self.stream.advance(cursor)
                if spike is None:
                    self._pending = cursor.step, metrics
                    ends = self.preemption.reached()
                    spike = self._evaluate_and_save(state, cursor, ends, progress)
                if spike is not None:
                    # Programs that share devices must not overlap: simulated ones would deadlock.
                    jax.block_until_ready(state)
                    self._beat(REWINDING, cursor.step)
                    state, cursor = self._rewind(spike)
                    self.learning_rate.begin(state.optimizer_state)
                    feed.seek(cursor)
                if cursor.step % _COLLECT_EVERY_STEPS == 0:
                    collect_garbage()
            if self._evaluated is not None:
                self._save_last(state, cursor, ends)
        self.job.watchdog.rest()
        return state, cursor

    def _progress(self, cursor: Cursor) -> contextlib.AbstractContextManager[Progress | None]:
        if not self.job.leads:
            return contextlib.nullcontext()
        return Progress(total_steps=self.training.steps, start_step=cursor.step)

    def _read_metrics(
        self,
        cursor: Cursor,
        progress: Progress | None,
        evaluated: Mapping[str, float] = {},
    ) -> Spike | None:
        """Reads the metrics of the step in flight, which waits for it; returns a spike found."""
        if self._pending is None:
            return None
        (step, on_device), self._pending = self._pending, None
        self._beat(DEVICES, cursor.step + 1)
        metrics = {name: float(value) for name, value in jax.device_get(on_device).items()}
        if metrics["skipped"]:
            log.warn(f"step {step}: loss or gradient is not finite; the parameters were kept.")
        self.throughput.add(int(metrics["tokens"]))
        rates = {}
        if step % self.training.rates_every_steps == 0:
            rates = self.throughput.report() | self.stream.epochs(cursor)
        beside = {"wall_time": time.time()} | self.learning_rate.metrics(
            skipped=bool(metrics["skipped"])
        )
        values = self.last_metrics = metrics | beside | rates | dict(evaluated)
        self.store.poll()
        self.writers.write(step, values)
        if progress is not None:
            progress.update(step, values)
        return self._spikes.observe(step, metrics)

    def _beat(self, where: str, step: int) -> None:
        self.job.watchdog.beat(where, step)

    # Evaluate and save.

    def _evaluate_and_save(
        self, state: TrainState, cursor: Cursor, ends: bool, progress: Progress | None
    ) -> Spike | None:
        """Does what is due after a step; returns the spike that its metrics complete."""
        step = cursor.step
        due = [one for one in self.evaluations if self._is_due(step, one.every_steps) and not ends]
        is_last = ends or step == self.training.steps
        saves = self._is_due(step, self.saving.every_steps) or ends
        if step % _LOOK_AT_CLOCK_EVERY_STEPS == 0:  # every process asks, whatever it knows
            saves = self.store.is_save_due(self.saving.every_seconds) or saves
        every = self.training.check_every_steps
        checks = every is not None and self._is_due(step, every)
        if not (due or saves or checks):
            return None
        self._beat(DEVICES, step)
        jax.block_until_ready(state)
        self._beat(EVALUATION, step)
        evaluated: dict[str, float] = {}
        with self.throughput.paused():
            for evaluation in due:
                evaluated |= evaluation(state)
        spike = self._read_metrics(cursor, progress, evaluated)
        if spike is None and checks:
            self._check_copies(step, state)
        if spike is None and is_last:
            self._evaluated = evaluated
        elif spike is None and saves:
            self._beat(SAVING, step)
            self._save(self.store.save, state, cursor, evaluated)
        return spike

    def _is_due(self, step: int, every_steps: int | None) -> bool:
        last = step == self.training.steps
        return last or (every_steps is not None and step % every_steps == 0)

    def _save_last(self, state: TrainState, cursor: Cursor, ends: bool) -> None:
        self._beat(SAVING, cursor.step)
        try:
            self._save(self.store.save_last, state, cursor, self._evaluated)
        except NotSaved as error:
            with contextlib.suppress(OSError):
                if ends and self.store.latest_verified() is not None:  # a restart resumes from it
                    raise AskedToEnd(f"asked to end, but {error}") from error
            raise

    def _save(
        self,
        save: Callable[..., None],
        state: TrainState,
        cursor: Cursor,
        evaluated: Mapping[str, float],
    ) -> None:
        self.writers.flush()  # A run that resumes at this step finds the metrics of all before it.
        # Where the storage does not answer, what the last save protected still does: it holds all
        # that a rewind may need by now. The save itself says what is wrong.
        with contextlib.suppress(OSError):
            verified = self.store.verified_steps()
            self.store.protect(self._spikes.steps_to_keep([*verified, cursor.step], cursor.step))
        own = {"spike_history": self._spikes.to_json(), "warm_start": self._warm_start}
        save(
            cursor.step,
            params=state.params,
            optimizer_state={"step": state.step, "state": state.optimizer_state},
            cursor=cursor.to_json(),
            meta={**self.meta, **own},
            metrics=evaluated,
        )

    def _check_copies(self, step: int, state: TrainState) -> None:
        def decide(text: str, decide: Callable[[list[str]], str]) -> str:
            seconds = self.job.deadlines.step_seconds
            return self.job.peers.decide("check of copies", text, decide, seconds)

        if difference := first_difference(state, decide):
            raise RuntimeError(
                f"step {step}: {difference}; one of the devices computes wrongly. Leave out its"
                " host and start again: the run resumes from its last checkpoint"
            )

    # Rewind.

    def _rewind(self, spike: Spike) -> tuple[TrainState, Cursor]:
        """Returns to a checkpoint before the spike, and skips the rows that led to it."""
        before = self._spikes
        before.check_rewinds(spike)
        with contextlib.suppress(RuntimeError):  # a save that failed is warned of at the next one
            self.store.wait()
        snapshot = self._restore_before(spike)
        state, cursor = self._begin() if snapshot is None else self._from(snapshot)
        self.store.discard_newer(cursor.step)
        cursor = self._spikes.rewind(before, spike, self.stream, cursor)
        record = self._spikes.rewinds[-1]
        log.warn(
            f"loss spike from step {spike.onset} to {spike.found} ({spike.reason}): going back to"
            f" step {cursor.step} and skipping {record['skipped_rows']} row(s) of the data."
        )
        self.writers.truncate_from(cursor.step + 1)
        return state, cursor

    def _restore_before(self, spike: Spike) -> Snapshot | None:
        """Returns the newest good checkpoint that is old enough; None: go back to the beginning."""

        def choose(texts: list[str]) -> str:
            return str(self._spikes.target(self.store.verified_steps(), spike))

        while True:
            seconds = self.job.deadlines.agree_seconds
            target = int(self.job.peers.decide("rewind", "", choose, seconds))
            if target == 0:
                return None
            try:
                return self._restore(target)
            except CorruptionError as error:
                # The store has marked it: the next choice is an older one.
                log.warn(f"the checkpoint of step {target} is not used: {error}")
