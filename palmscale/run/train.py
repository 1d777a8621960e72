"""Trains a run, from where its folder stands to its last step, on one process or many."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import jax

from palmscale.checkpoint.lease import Lease
from palmscale.checkpoint.store import CheckpointStore
from palmscale.cluster.job import Job
from palmscale.cluster.join import ProcessPlace
from palmscale.cluster.preempt import Preemption
from palmscale.data.open import training_stream
from palmscale.model.lora import Lora
from palmscale.observe import log
from palmscale.observe.reporting import metric_writers, throughput, where_metrics_lie
from palmscale.observe.writers import Writers
from palmscale.optim.learning_rate import LearningRate
from palmscale.run.adapter_store import AdapterStore
from palmscale.run.compiler_settings import compiler_settings
from palmscale.run.ending import Command
from palmscale.run.evaluate import eval_loss, opened_evaluations
from palmscale.run.identity import check_same_run, describe, flat
from palmscale.run.job import joined
from palmscale.run.place import environment
from palmscale.run.plan_check import compare_with_plan
from palmscale.run.run import Run
from palmscale.run.sample import say_sample
from palmscale.run.session import Session, compiled_step, meta, open_session, session_identity
from palmscale.run.stored_meta import check_resumable, checked_meta
from palmscale.run.versions import compiler_versions, versions
from palmscale.run.warm_start import check_base, check_is_another, initial_params
from palmscale.run.workdir import CHECKPOINTS, CONFIG, VOCABULARY, Workdir, own_folder
from palmscale.storage.place import Place
from palmscale.storage.place import place as _place
from palmscale.train.compile import Load
from palmscale.train.evaluate import Evaluation
from palmscale.train.faults import Fault, faulty, spoil
from palmscale.train.step_file import load_step
from palmscale.train.step_log import StepLog
from palmscale.train.trainer import Trainer


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How training ended.

    Attributes:
        step: steps done in all.
        metrics: of the last step, by name; empty where there was nothing to do.
        workdir: the run's folder.
        finished: whether `step` is the run's last one; else it was preempted, having saved.
    """

    step: int
    metrics: dict[str, float]
    workdir: Place
    finished: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Debugging:
    """What helps to test a run, and is not part of it.

    Attributes:
        faults: to inject; see `palmscale.train.faults`.
        step_file: a trusted file with the compiled step, to load in place of compiling.
        step_log: a file that logs what each step consumed.
    """

    faults: Sequence[Fault] = ()
    step_file: str | None = None
    step_log: str | None = None


def train(
    run: Run,
    workdir: Workdir,
    place: ProcessPlace | None = None,
    *,
    evaluations: Sequence[Evaluation] = (),
    config: str = "",
    command: Command | None = None,
    debugging: Debugging = Debugging(),
) -> TrainResult:
    """Trains a run from where `workdir` stands to its last step, and returns how it ended.

    It returns only once the last state is saved and verified. Ctrl-C saves after the step in
    progress and then raises KeyboardInterrupt, whose message names the step; a second Ctrl-C raises
    it at once, without saving. Either way the folder is released, and the same call resumes from
    the last checkpoint. In a job of several processes an exception ends the process.

    Args:
        run: what to train.
        workdir: the run's folder, on storage that all hosts share.
        place: coordinator and rank; None: as the environment tells, see `place_from`.
        evaluations: to run at their periods besides the held-out loss and `Run.evaluations`.
        config: the run as text, kept in the folder and in every checkpoint; the command line's.
        command: that this process runs, and a second Ctrl-C ends; None: a program.
        debugging: faults and logs, for tests.

    Raises:
        UserError: the folder holds another run, or the parts of the run do not fit.
        HostLost: another host is gone; starting again may help.
        NotSaved: the last state, or too many in a row, could not be saved.
        AskedToEnd: SIGTERM came before training began, or the last save failed after it.
    """
    folder = own_folder(workdir)
    check_is_another(run, folder)
    with joined(
        place,
        simulated_devices=run.layout.simulated_devices,
        deadlines=run.deadlines,
        command=command,
    ) as job:
        with _opened(run, folder, job) as (preemption, session, store):
            parameters = _told_parameters(session)
            trainer = _trainer(run, session, job, folder, store, preemption, config, debugging)
            described = opened_evaluations(run, session, job.watchdog.go_on)
            trainer = dataclasses.replace(
                trainer, evaluations=[*trainer.evaluations, *described, *evaluations]
            )
            trainer.agree(_facts(run, session, folder))
            if not _resumes(run, session, store):
                check_base(run, session, job)
            resumed = None
            if trainer.look() >= run.training.steps:
                resumed = trainer.resume_or_begin(parameters)
                if resumed[1].step >= run.training.steps:
                    return TrainResult(
                        step=resumed[1].step, metrics={}, workdir=folder, finished=True
                    )
            _compile(run, trainer, folder, debugging.step_file)
            state, cursor = resumed or trainer.resume_or_begin(parameters)
            if job.leads:
                _write_descriptions(run, folder, session, config)
            state, cursor = trainer.train(state, cursor)
            interrupted = "yes" in job.peers.gather(
                "end of the run",
                "yes" if preemption.interrupted else "",
                run.deadlines.agree_seconds,
            )
        finished = cursor.step >= run.training.steps
        # Outside the run's mesh: one device writes the sample.
        if finished and not interrupted and job.peers.count == 1:
            say_sample(run, session.vocabulary, state.params)
    if interrupted:
        raise KeyboardInterrupt(f"saved step {cursor.step:,}")
    return TrainResult(
        step=cursor.step, metrics=trainer.last_metrics, workdir=folder, finished=finished
    )


@contextlib.contextmanager
def _opened(
    run: Run, folder: Place, job: Job
) -> Iterator[tuple[Preemption, Session, CheckpointStore]]:
    """Opens what a run holds until it ends, in this order: signals, workdir, devices and rows."""
    with (
        Preemption(job.peers, leave=job.leave, say=log.say) as preemption,
        Lease(
            folder,
            process_index=job.peers.index,
            stale_seconds=run.deadlines.heartbeat_seconds,
        ) as lease,
        open_session(run, job.watchdog.beat) as session,
        _store(run)(
            folder / CHECKPOINTS,
            keep=run.saving.keep,
            lease=lease,
            retries=run.saving.retries,
            peers=job.peers,
            timeout_seconds=run.deadlines.agree_seconds,
        ) as store,
    ):
        job.watchdog.rest()
        yield preemption, session, store


def _told_parameters(session: Session) -> str:
    """Returns how many parameters there are and train, as a person reads it."""
    whole = f"{session.counts.stored:,} parameters"
    if session.trained == session.counts.stored:
        return whole
    return f"{whole}, of which {session.trained:,} train,"


def _store(run: Run) -> Callable[..., CheckpointStore]:
    if not isinstance(run.trainable, Lora):
        return CheckpointStore
    return functools.partial(AdapterStore, base=run.warm_start)


def _trainer(
    run: Run,
    session: Session,
    job: Job,
    workdir: Place,
    store: CheckpointStore,
    preemption: Preemption,
    config: str,
    debugging: Debugging,
) -> Trainer:
    step = compiled_step(run, session)
    # Compiled only where a fault asks for it.
    nan_step = compiled_step(run, session, edit_gradients=spoil)
    stream = training_stream(run.data, session.caches, run.training.batch_schedule)
    mesh = session.layout.mesh
    evaluation = eval_loss(
        run,
        session,
        max_sequences=run.training.eval_sequences,
        beat=job.watchdog.go_on,
    )
    return Trainer(
        training=run.training,
        saving=run.saving,
        job=job,
        workdir=workdir,
        model=run.model,
        state_plan=session.state_plan,
        step=step,
        step_at=faulty(step, nan_step, debugging.faults, stream),
        stream=stream,
        batch_sharding=session.layout.batch_sharding,
        store=store,
        writers=metric_writers(run.reporting, workdir) if job.leads else Writers([]),
        learning_rate=LearningRate(run.optimizer),
        throughput=throughput(
            run.reporting,
            flops_per_token=sum(session.flops_per_token),
            device_kind=jax.devices()[0].device_kind,
            devices=mesh.size,
        ),
        evaluations=[evaluation],
        initial_params=initial_params(run, session, job),
        meta=meta(run, session, config),
        step_log=StepLog(debugging.step_log, seed=run.training.seed, leads=job.leads),
        preemption=preemption,
    )


def _facts(run: Run, session: Session, workdir: Place) -> dict[str, str]:
    """Returns what must be equal on all hosts, by name."""
    return {
        "the workdir": str(workdir.absolute()),
        **{f"the version of {name}": version for name, version in versions().items()},
        **compiler_settings(environment()),
        **{f"the rows of {name or 'data'}": c.digest for name, c in session.caches.items()},
        **{f"Run.{name}": repr(value) for name, value in flat(describe(run))},
    }


def _resumes(run: Run, session: Session, store: CheckpointStore) -> bool:
    """Returns whether the folder has a checkpoint of the run; warns of the changes allowed.

    Raises:
        UserError: it holds another run.
    """
    stored = store.read_meta()
    if stored is None:
        return False
    check_resumable(stored, store)
    identity = session_identity(run, session)
    kept = checked_meta(stored, store)["identity"]
    # 0.1.0 did not store the run.
    old_steps = stored.get("run", {}).get("training", {}).get("steps")
    steps = old_steps, run.training.steps
    allowed = check_same_run(kept, identity, run.allow_changes, steps=steps)
    for name, (old, new) in allowed.items():
        log.warn(f"resuming with {name} changed from {old!r} to {new!r}, as allowed.")
    return True


def _compile(run: Run, trainer: Trainer, workdir: Place, step_file: str | None) -> None:
    """Compiles the step, and warns where the folder's plan is of another one."""
    digest = trainer.compile(_loader(step_file))
    if trainer.job.leads:
        compare_with_plan(
            workdir,
            step_digest=digest,
            batch_sequences=run.training.batch_schedule.sequences(0),
            run=describe(run),
            versions=versions(),
        )


def _write_descriptions(run: Run, workdir: Place, session: Session, config: str) -> None:
    log.say(where_metrics_lie(run.reporting, workdir))
    if config:
        (workdir / CONFIG).write_bytes(config.encode())
    vocabulary = workdir / VOCABULARY
    vocabulary.mkdir(parents=True, exist_ok=True)
    session.vocabulary.save(vocabulary)


def _loader(step_file: str | None) -> Load | None:
    if step_file is None:
        return None
    return functools.partial(_load, _place(step_file))


def _load(path: Place, lowered: jax.stages.Lowered, digest: str) -> jax.stages.Compiled:
    return load_step(path, lowered, digest=digest, versions=compiler_versions())
