"""Evaluates checkpoints of a run's folder, or of an imported one, on tasks and text."""

import time
from collections.abc import Callable, Iterable, Sequence

from palmscale.cluster.join import ProcessPlace
from palmscale.evals.candidate import Candidate, Progress, candidate_of
from palmscale.observe import log
from palmscale.observe.reporting import Reporting
from palmscale.run.ending import Command
from palmscale.run.evaluate import Evaluated, steps_of
from palmscale.run.job import joined
from palmscale.run.load import load
from palmscale.run.named_classes import import_modules
from palmscale.run.rebuild import rebuild
from palmscale.run.record import record
from palmscale.run.workdir import Workdir, checkpoints

CandidateEvaluation = Callable[[Candidate], dict[str, float]]


def evaluate_workdir(
    workdir: Workdir,
    opened: Callable[[], Sequence[CandidateEvaluation]],
    *,
    checkpoint: int | str = "latest",
    context_length: int | None = None,
    adapter: Workdir | None = None,
    average: int = 1,
    modules: Iterable[str] = (),
    place: ProcessPlace | None = None,
    command: Command | None = None,
) -> list[Evaluated]:
    """Returns the evaluations of one checkpoint, or of all, oldest first.

    The metrics are also added to metrics.jsonl and to the metric writers of the run, unless they
    are those of an average or with another run's adapter.

    Args:
        workdir: the folder of a run, or of imported weights.
        opened: returns what to evaluate, such as `SuiteTasks` and `TextEvaluation`; called once.
        checkpoint: `latest`, `best`, a step, or `all`.
        context_length: tokens that the model sees at once; None: those of a row in training.
        adapter: see `palmscale.load`, as for the next two.
        average: of how many checkpoints the parameters are averaged.
        modules: that the checkpoint may name.
        place: coordinator and rank; None: as the environment tells.
        command: that this process runs; None: a program.

    Raises:
        UserError: there is no such checkpoint, or an evaluation cannot be opened.
    """
    modules = tuple(modules)
    with joined(place, simulated_devices=None, command=command) as job:
        which: list[int | str] = [checkpoint]
        if checkpoint == "all":
            which = steps_of(checkpoints(workdir, peers=job.peers), job, average=average)
        import_modules(modules)  # which may register tasks
        evaluations = opened()
        found = []
        for one in which:
            trained = load(
                workdir, one, adapter=adapter, average=average, modules=modules, peers=job.peers
            )
            step, reporting = trained.step, _reporting(trained.meta)
            candidate = candidate_of(
                trained,
                context_length=context_length,
                donate=True,
                progress=_told_at_times(log.say),
            )
            del trained  # its parameters are the candidate's now
            metrics: dict[str, float] = {}
            for evaluation in evaluations:
                metrics |= evaluation(candidate)
            if len(which) > 1:
                log.say(f"Step {step:,} is evaluated.")
            if job.leads and adapter is None and average == 1:
                record(workdir, step, metrics, reporting)
            found.append(Evaluated(step=step, metrics=metrics, leads=job.leads))
        return found


def _told_at_times(say: Callable[[str], None], *, seconds: float = 10.0) -> Progress:
    """Returns what says how far an evaluation is, at most every so many seconds."""
    told = time.monotonic()

    def tell(what: str, done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told >= seconds:
            told = time.monotonic()
            say(f"{done:,} of {total:,} {what}.")

    return tell


def _reporting(meta: dict) -> Reporting:
    """Returns the metric writers of the run; none of imported weights, which have no run."""
    described = meta.get("run", {}).get("reporting")
    return Reporting() if described is None else rebuild(described, base=Reporting)
