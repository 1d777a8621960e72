"""Evaluates checkpoints of a run's folder, or of an imported one, on tasks and text."""

from collections.abc import Callable, Iterable, Sequence

from palmscale.cluster.join import ProcessPlace
from palmscale.cluster.jointly import led
from palmscale.evals.candidate import Candidate, candidate_of
from palmscale.observe import log
from palmscale.observe.reporting import Reporting
from palmscale.run.ending import Command
from palmscale.run.evaluate import Evaluated, steps_of
from palmscale.run.job import joined
from palmscale.run.load import load
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
    modules: Iterable[str] = (),
    place: ProcessPlace | None = None,
    command: Command | None = None,
) -> list[Evaluated]:
    """Returns the evaluations of one checkpoint, or of all, oldest first.

    The metrics are also added to metrics.jsonl and to the metric writers of the run.

    Args:
        workdir: the folder of a run, or of imported weights.
        opened: returns what to evaluate, such as `SuiteTasks` and `TextEvaluation`; called once.
        checkpoint: `latest`, `best`, a step, or `all`.
        context_length: tokens that the model sees at once; None: those of a row in training.
        adapter: see `palmscale.load`, as for the next.
        modules: that the checkpoint may name.
        place: coordinator and rank; None: as the environment tells.
        command: that this process runs; None: a program.

    Raises:
        UserError: there is no such checkpoint, or an evaluation cannot be opened.
    """
    with joined(place, simulated_devices=None, command=command) as job:
        reader = checkpoints(workdir, peers=job.peers)
        seconds = job.deadlines.agree_seconds
        steps = led(job.peers, "steps", lambda: steps_of(reader, checkpoint), seconds)
        evaluations = opened()
        found = []
        for step in steps:
            trained = load(workdir, step, adapter=adapter, modules=modules, peers=job.peers)
            reporting = _reporting(trained.meta)
            candidate = candidate_of(trained, context_length=context_length, donate=True)
            del trained  # its parameters are the candidate's now
            metrics: dict[str, float] = {}
            for evaluation in evaluations:
                metrics |= evaluation(candidate)
            if job.leads:
                if len(steps) > 1:
                    log.say(f"Step {step:,} is evaluated.")
                record(workdir, step, metrics, reporting)
            found.append(Evaluated(step=step, metrics=metrics, leads=job.leads))
        return found


def _reporting(meta: dict) -> Reporting:
    """Returns the metric writers of the run; none of imported weights, which have no run."""
    described = meta.get("run", {}).get("reporting")
    return Reporting() if described is None else rebuild(described, base=Reporting)
