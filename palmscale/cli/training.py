"""`palmscale train`: from gin files to a trained model, on one process or many."""

import argparse
import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from palmscale.checkpoint.lease import Lease
from palmscale.checkpoint.store import CheckpointStore, Snapshot
from palmscale.cli import gin_config, samples
from palmscale.cli.course import Course
from palmscale.cli.facts import compiler_versions, flat, mesh_text, meta, versions
from palmscale.cli.job import Job, joined
from palmscale.cli.outcome import RESTART_ME
from palmscale.cli.planned import compare_with_plan
from palmscale.cli.reporting import metric_writers, throughput
from palmscale.cli.rows import train_rows
from palmscale.cli.run import check_same_run, describe, load_run
from palmscale.cli.warm import given_parameters
from palmscale.cli.wiring import (
    CHECKPOINTS,
    CONFIG_FILE,
    Setting,
    compiled_step,
    evaluator,
    setting,
)
from palmscale.cli.witness import Witness
from palmscale.cluster.agree import check_alike
from palmscale.cluster.preempt import Preemption
from palmscale.data.feed import Feed, abstract_batch
from palmscale.data.stream import Batch, Cursor, RowStream
from palmscale.errors import CorruptionError, UserError
from palmscale.observe import log
from palmscale.observe.progress import Progress
from palmscale.observe.writers import Writers
from palmscale.storage.place import Place, place
from palmscale.train import loop
from palmscale.train.faults import faulty, parse_faults, spoil
from palmscale.train.replicas import first_difference
from palmscale.train.saved_step import load_step
from palmscale.train.spike import Spike
from palmscale.train.state import TrainState, init_state

VOCABULARY = "vocabulary"
_LOOK_AT_CLOCK_EVERY_STEPS = 10  # all processes do, and wait for process 0's


def train(args: argparse.Namespace) -> int:
    """`palmscale train`: trains from where the workdir stands to TRAIN_STEPS.

    Returns 75 where it was preempted, having saved.
    """
    log.set_up()
    faults = parse_faults(args.inject)
    run = load_run(args.gin_file, args.gin_bindings)
    workdir = place(args.workdir)
    command = (
        f"palmscale generate --workdir={workdir} --prompt='{run.reporting.sample_prompt or ''}'"
    )
    with joined(
        args, simulated_devices=run.layout.simulated_devices, deadlines=run.deadlines
    ) as job:
        with (
            Lease(
                workdir,
                process_index=job.peers.index,
                stale_seconds=run.deadlines.heartbeat_seconds,
            ) as lease,
            setting(run) as here,
            CheckpointStore(
                workdir / CHECKPOINTS,
                keep=run.keep,
                lease=lease,
                retries=run.retries,
                peers=job.peers,
                timeout_seconds=run.deadlines.agree_seconds,
            ) as store,
        ):
            witness = Witness(args.witness, seed=run.seed, leads=job.leads)
            training = Training(here, job, store, workdir, witness)
            training.agree(args.compiled_step)
            state, cursor = training.resume_or_begin()
            if cursor.step >= run.train_steps:
                log.say(f"There is nothing to do: {workdir} stands at step {cursor.step:,}, and "
                        f"TRAIN_STEPS={run.train_steps}. Ask for more, or: {command}")  # fmt: skip
                return 0
            if job.leads:
                (workdir / CONFIG_FILE).write_text(gin_config.operative_config())
                here.vocabulary.save(_made(workdir / VOCABULARY))
            state, cursor = training.train(state, cursor, faults)
        if cursor.step < run.train_steps:
            log.say(f"Asked to end: saved step {cursor.step:,}. The same command goes on from it.")
            return RESTART_ME
        # Outside the run's mesh: the sample is written by one device.
        if job.peers.count == 1:
            samples.say_sample(run, here.vocabulary, state.params)
    log.say(f"Trained {run.train_steps:,} steps; checkpoints are in {workdir}. Next: {command}")
    return 0


class Training:
    """A run on this process: what it is made of, and how it goes on."""

    def __init__(
        self, here: Setting, job: Job, store: CheckpointStore, workdir: Place, witness: Witness
    ) -> None:
        self._here, self._job, self._store, self._workdir = here, job, store, workdir
        self._witness = witness
        self._run = here.run
        self._stream = row_stream(here)
        self._step = compiled_step(here)
        self._course = Course(self._run.spikes)
        self._warm_start: dict[str, Any] | None = None

    def agree(self, step_file: str | None = None) -> None:
        """Compiles the step, and goes on only where all processes are about to do the same.

        With `step_file`, a trusted file, it is loaded in place of being compiled.

        Raises:
            UserError: one differs; it is named.
            HostLost: one did not come.
        """
        does = "Loading" if step_file else "Compiling"
        log.say(f"{does} the step for {mesh_text(self._here.mesh)}.")
        first = abstract_batch(self._stream, self._here.batch_sharding, 0)
        load = None if step_file is None else functools.partial(_load, place(step_file))
        program = self._step.prepare(first, load)
        if self._job.leads:
            compare_with_plan(
                self._workdir,
                step_digest=program,
                batch_sequences=first.target_BL.shape[0],
                run=describe(self._run),
                versions=versions(),
            )
        facts = {
            "the compiled step": program,
            "--workdir": str(self._workdir.absolute()),
            **{f"the version of {name}": version for name, version in versions().items()},
            **{f"the rows of {n or 'data'}": c.digest for n, c in self._here.caches.items()},
            **{f"gin's {name}": repr(value) for name, value in flat(describe(self._run))},
        }
        check_alike(self._job.peers, facts, self._job.deadlines.agree_seconds)
        self._check_shared()

    def _check_shared(self) -> None:
        """Checks that all processes see one workdir: each alone would save a part of a state."""
        token = self._job.peers.decide("workdir", "", self._leave_token, 60.0)
        path = self._workdir / "LEASE"
        deadline = time.monotonic() + 30
        while not path.exists() or token not in path.read_text():
            if time.monotonic() > deadline:
                raise UserError(
                    f"{self._job.peers.name(self._job.peers.index)} does not see in the workdir"
                    f" {self._workdir.absolute()} what {self._job.peers.name(0)} wrote there - it"
                    " must be storage that all hosts share - choose such a --workdir"
                )
            time.sleep(0.1)

    def _leave_token(self, texts: list[str]) -> str:
        return (self._workdir / "LEASE").read_text()

    def resume_or_begin(self) -> tuple[TrainState, Cursor]:
        """Resumes from the newest good checkpoint of this run, else begins at step 0."""
        run = self._run
        meta = self._store.read_meta()
        if meta is not None:
            for name, (old, new) in check_same_run(
                meta["identity"], self._here.identity, run.allow_changes
            ).items():
                log.warn(
                    f"resuming with {name} changed from {old!r} to {new!r}, as ALLOW_CHANGES says."
                )
        snapshot = self._restore(None)
        count = f"{self._here.num_params:,} parameters on {mesh_text(self._here.mesh)}"
        if snapshot is None:
            log.say(f"Beginning at step 0: {count}.")
            return self._begin()
        log.say(f"Resuming after step {snapshot.step:,}: {count}.")
        return self._from(snapshot)

    def _restore(self, step: int | None) -> Snapshot | None:
        abstract = self._here.plan.abstract
        optimizer = {"step": abstract.step, "state": abstract.optimizer_state}
        return self._store.restore(
            step, abstract_params=abstract.params, abstract_optimizer_state=optimizer
        )

    def _from(self, snapshot: Snapshot) -> tuple[TrainState, Cursor]:
        self._course = Course(self._run.spikes, snapshot.meta.get("course"))
        self._warm_start = snapshot.meta.get("warm_start")
        optimizer = snapshot.optimizer_state
        state = TrainState(optimizer["step"], snapshot.params, optimizer["state"])
        self._witness.state(snapshot.step, {"params": snapshot.params, "optimizer": optimizer})
        return state, Cursor.from_json(snapshot.cursor)

    def _begin(self) -> tuple[TrainState, Cursor]:
        self._course = Course(self._run.spikes)
        given, self._warm_start = given_parameters(self._here, self._job.peers)
        state = init_state(self._here.plan, self._run.model, seed=self._run.seed, given=given)
        return state, self._stream.cursor(0, self._run.skip_rows)

    def train(
        self, state: TrainState, cursor: Cursor, faults: Any = ()
    ) -> tuple[TrainState, Cursor]:
        """Trains to the end, or to where the run is preempted."""
        run, watchdog = self._run, self._job.watchdog
        metrics = metric_writers(run, self._workdir, leads=self._job.leads)
        metrics.truncate_from(cursor.step + 1)
        # Compiled only where a fault asks for it.
        nan_step = compiled_step(self._here, edit_gradients=spoil)
        progress: Any = contextlib.nullcontext()
        if self._job.leads:
            progress = Progress(total_steps=run.train_steps, start_step=cursor.step)

        def report(done: int, values: Mapping[str, float]) -> None:
            self._store.poll()
            metrics.write(done, values)
            if self._job.leads:
                progress.update(done, values)

        with (
            contextlib.closing(metrics),
            Feed(self._stream, self._here.batch_sharding, cursor) as feed,
            Preemption(self._job.peers) as preemption,
            progress,
        ):
            hooks = loop.Hooks(
                report=report,
                evaluate=evaluator(self._here, watchdog.go_on),
                save=functools.partial(self._save, metrics),
                find_spike=lambda step, values: self._course.observe(step, values),
                rewind=functools.partial(self._rewind, feed, metrics),
                is_save_due=self._is_save_due,
                is_preempted=lambda step: preemption.reached(),
                check=self._check_copies,
                beat=watchdog.beat,
            )
            state, cursor = loop.train(
                state,
                step_at=faulty(self._step, nan_step, faults, self._stream),
                feed=self._witnessed(feed),
                stream=self._stream,
                cursor=cursor,
                train_steps=run.train_steps,
                periods=run.periods,
                throughput=throughput(self._here),
                hooks=hooks,
            )
        watchdog.rest()
        return state, cursor

    def _witnessed(self, feed: Feed) -> Iterator[tuple[Cursor, Batch]]:
        for cursor, batch in feed:
            self._witness.batch(cursor.step, batch)
            yield cursor, batch

    def _save(
        self,
        metrics: Writers,
        done: int,
        state: TrainState,
        cursor: Cursor,
        held_out: Mapping[str, float],
    ) -> None:
        metrics.flush()  # A run that goes on from this step finds the metrics of all before it.
        # Where the storage does not answer, what the last save protected still does: it holds all
        # that a rewind may need by now. The save itself says what is wrong.
        with contextlib.suppress(OSError):
            verified = self._store.verified_steps()
            self._store.protect(self._course.steps_to_keep([*verified, done], done))
        self._store.save(
            done,
            params=state.params,
            optimizer_state={"step": state.step, "state": state.optimizer_state},
            cursor=cursor.to_json(),
            meta=meta(self._here)
            | {"course": self._course.to_json(), "warm_start": self._warm_start},
            metrics=held_out,
        )

    def _is_save_due(self, done: int) -> bool:
        if done % _LOOK_AT_CLOCK_EVERY_STEPS:
            return False
        return self._store.is_save_due(self._run.periods.save_every_seconds)

    def _rewind(self, feed: Feed, metrics: Writers, spike: Spike) -> tuple[TrainState, Cursor]:
        """Goes back to a checkpoint before the spike, leaves out the rows that led to it."""
        course = self._course
        course.check_rewinds(spike)

        with contextlib.suppress(RuntimeError):  # a save that failed is warned of at the next one
            self._store.wait()
        snapshot = self._restore_before(spike)
        state, cursor = self._begin() if snapshot is None else self._from(snapshot)
        self._store.discard_newer(cursor.step)
        cursor = self._course.go_on(course, spike, self._stream, cursor)
        record = self._course.rewinds[-1]
        log.warn(
            f"loss spike from step {spike.onset} to {spike.found} ({spike.reason}): going back to"
            f" step {cursor.step}, and leaving out {record['skipped_rows']} row(s) of the data."
        )
        metrics.truncate_from(cursor.step + 1)
        feed.seek(cursor)
        return state, cursor

    def _restore_before(self, spike: Spike) -> Snapshot | None:
        """Returns the newest good checkpoint that is old enough; None: the beginning is the one."""

        def choose(texts: list[str]) -> str:
            return str(self._course.target(self._store.verified_steps(), spike))

        while True:
            seconds = self._job.deadlines.agree_seconds
            target = int(self._job.peers.decide("rewind", "", choose, seconds))
            if target == 0:
                return None
            try:
                return self._restore(target)
            except CorruptionError as error:
                # The store has marked it: the next choice is an older one.
                log.warn(f"the checkpoint of step {target} is not used: {error}")

    def _check_copies(self, done: int, state: TrainState) -> None:
        def decide(text: str, decide: Callable[[list[str]], str]) -> str:
            seconds = self._job.deadlines.step_seconds
            return self._job.peers.decide("check of copies", text, decide, seconds)

        if difference := first_difference(state, decide):
            raise RuntimeError(
                f"step {done}: {difference}; one of the devices computes wrongly. Leave out its"
                " host, and start again: the run goes on from its last checkpoint"
            )


def row_stream(here: Setting) -> RowStream:
    """Returns the batches of a run."""
    return RowStream(rows=train_rows(here.run, here.caches), schedule=here.run.batch_schedule)


def _load(path: Place, lowered: jax.stages.Lowered, digest: str) -> jax.stages.Compiled:
    return load_step(path, lowered, digest=digest, versions=compiler_versions())


def _made(directory: Place) -> Place:
    directory.mkdir(parents=True, exist_ok=True)
    return directory
