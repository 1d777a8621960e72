"""Evaluates the checkpoints of a run on its held-out rows."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from palmscale.checkpoint.average import last_steps
from palmscale.checkpoint.reader import CheckpointReader
from palmscale.cluster.job import Job
from palmscale.cluster.join import ProcessPlace
from palmscale.cluster.jointly import led
from palmscale.data.sources.source import VALIDATION
from palmscale.errors import UserError
from palmscale.observe import log
from palmscale.run.adapters import restored, with_adapter
from palmscale.run.ending import Command
from palmscale.run.job import joined
from palmscale.run.run import Run
from palmscale.run.session import Session, open_session
from palmscale.run.stored_meta import check_trainable
from palmscale.run.workdir import Workdir, checkpoints, choose, saved_steps
from palmscale.train.evaluate import Evaluation, HeldOutLoss, Subject, make_eval_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The evaluation of a checkpoint.

    Attributes:
        step: of the checkpoint.
        metrics: `eval_loss` (nats a token) and others, by name.
        leads: whether this is the process that prints for all.
    """

    step: int
    metrics: dict[str, float]
    leads: bool = True


def evaluate(
    run: Run,
    workdir: Workdir,
    *,
    checkpoint: int | str = "latest",
    adapter: Workdir | None = None,
    average: int = 1,
    place: ProcessPlace | None = None,
    command: Command | None = None,
) -> Evaluated:
    """Returns the evaluation of a checkpoint on all held-out rows of the run's data.

    Args:
        run: whose data, layout and model to evaluate with.
        workdir: the folder of the run that trained.
        checkpoint: `latest`, `best` or a step.
        adapter: to evaluate it with; see `palmscale.load`.
        average: of how many checkpoints, up to this one, the parameters are averaged.
        place: coordinator and rank; None: as the environment tells.
        command: that this process runs; None: a program.

    Raises:
        UserError: there is no such checkpoint, its arrays are not those of the model, or nothing is
            held out.
    """
    (found,) = evaluate_each(
        run,
        workdir,
        checkpoint=checkpoint,
        adapter=adapter,
        average=average,
        place=place,
        command=command,
    )
    return found


def evaluate_each(
    run: Run,
    workdir: Workdir,
    *,
    checkpoint: int | str = "all",
    adapter: Workdir | None = None,
    average: int = 1,
    place: ProcessPlace | None = None,
    command: Command | None = None,
) -> list[Evaluated]:
    """Returns the evaluations of all checkpoints, oldest first; see `evaluate`.

    Args:
        checkpoint: `all`, or one of them as in `evaluate`.
    """
    run = with_adapter(run, workdir, adapter)
    layout, deadlines = run.layout, run.deadlines
    with (
        joined(
            place,
            simulated_devices=layout.simulated_devices,
            deadlines=deadlines,
            command=command,
        ) as job,
        open_session(run, job.watchdog.beat) as session,
    ):
        job.watchdog.rest()
        reader = checkpoints(workdir, peers=job.peers)
        check_trainable(reader.read_meta(), reader)
        # Of one checkpoint, `restore` may fall back to an older one that is intact.
        which: list[int | str | None] = [None if checkpoint == "latest" else checkpoint]
        if checkpoint == "all":
            which = [*steps_of(reader, job, average=average)]
        evaluation = eval_loss(run, session, max_sequences=None)
        found = []
        for step in which:
            snapshot = restored(
                reader, step, session.state_plan.abstract.params, adapter, average=average
            )
            if snapshot is None:
                raise UserError(f"there is no checkpoint in {workdir}; train first.")
            metrics = evaluation(snapshot)
            if not metrics:
                raise UserError("nothing is held out in this data; see Corpus.held_out_fraction.")
            metrics = with_perplexity(metrics)
            found.append(Evaluated(step=snapshot.step, metrics=metrics, leads=job.leads))
        return found


def steps_of(reader: CheckpointReader, job: Job, *, average: int = 1) -> list[int]:
    """Returns all verified steps, oldest first, as process 0 finds them.

    Args:
        reader: of the checkpoints.
        job: whose processes all call this.
        average: how many checkpoints end at a step; those with fewer are left out.

    Raises:
        UserError: there is none.
    """

    def verified() -> list[int]:
        steps = [info.step for info in saved_steps(reader) if info.verified]
        if not steps:
            choose(reader, "latest")  # which says what is wrong
        last_steps(steps, steps[-1], average)
        return steps[average - 1 :]

    return led(job.peers, "steps", verified, job.deadlines.agree_seconds)


def with_perplexity(metrics: Mapping[str, float]) -> dict[str, float]:
    """Returns the metrics with `eval_perplexity` after each `eval_loss`, of a component or all."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        found[name] = value
        if name.partition("/")[0] == "eval_loss":
            found[name.replace("eval_loss", "eval_perplexity", 1)] = perplexity(value)
    return found


def perplexity(loss: float) -> float:
    """Returns e to a loss in nats; infinity where that is no float."""
    with np.errstate(over="ignore"):
        return float(np.exp(loss))


def eval_loss(
    run: Run,
    session: Session,
    *,
    max_sequences: int | None,
    beat: Callable[[], None] = lambda: None,
) -> HeldOutLoss:
    """Returns the evaluation of a run's held-out rows, `max_sequences` of each component."""
    splits = {name: cache.split(VALIDATION) for name, cache in session.caches.items()}
    if max_sequences == 0:
        log.warn("Training.eval_sequences=0: no evaluation.")
    for name, split in splits.items():
        if max_sequences != 0 and not split.num_rows:
            of = f" of {name}" if name else ""
            log.warn(f"no rows{of} are held out: no evaluation{of}.")
    return HeldOutLoss(
        every_steps=run.training.eval_every_steps,
        splits=splits,
        weights_at=run.data.weights_at,
        eval_step=make_eval_step(
            model=run.model,
            bos_id=session.vocabulary.bos_id,
            loss_chunk_length=run.training.loss_chunk_length,
        ),
        sharding=session.layout.batch_sharding,
        batch_sequences=run.training.batch_schedule.stages[0][1],
        max_sequences=max_sequences,
        beat=beat,
    )


def opened_evaluations(run: Run, session: Session, beat: Callable[[], None]) -> list[Evaluation]:
    """Returns the evaluations that a run describes, ready to be called.

    Raises:
        UserError: one cannot be followed.
    """
    subject = Subject(
        model=run.model,
        params=session.state_plan.boxed.params,
        vocabulary=session.vocabulary,
        layout=session.layout,
        sequence_length=run.data.sequence_length,
        beat=beat,
    )
    return [described.open(subject) for described in run.evaluations]
