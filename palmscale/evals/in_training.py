"""Evaluations that a run describes, computed at a period on the parameters as they stand."""

import dataclasses
from typing import Any

from palmscale.errors import UserError
from palmscale.evals.candidate import candidate_of
from palmscale.evals.suite import SuiteTasks, suite_tasks
from palmscale.infer.layouts import stored_rules
from palmscale.infer.partition import generation_rules
from palmscale.partition.layout import DeviceLayout
from palmscale.run.trained import Trained
from palmscale.train.evaluate import Evaluation, Subject


@dataclasses.dataclass(frozen=True, kw_only=True)
class LmEval:
    """Tasks of lm-eval during training; a value of `Run.evaluations`.

    Their metrics appear in metrics.jsonl and every metric writer as `eval/<task>/<metric>`.

    Attributes:
        tasks: names of lm-eval, of files in `include_path`, `palm-29`, or `seqio:NAME`.
        every_steps: the period; None: at the last step only.
        include_path: a folder of task files.
        num_fewshot: examples before each question; None: as each task has it.
        limit: documents of each task: a number, or a share below 1; None: all.
        context_length: tokens that the model sees at once; None: those of a row in training.

    Raises:
        UserError: a value is out of range.
    """

    tasks: tuple[str, ...]
    every_steps: int | None = None
    include_path: str | None = None
    num_fewshot: int | None = None
    limit: float | None = None
    context_length: int | None = None

    def __post_init__(self) -> None:
        if not self.tasks:
            raise UserError("LmEval.tasks is empty; name at least one task.")
        for name, least in (("every_steps", 1), ("num_fewshot", 0), ("context_length", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"LmEval.{name}={value} must be at least {least}.")
        if self.limit is not None and self.limit <= 0:
            raise UserError(f"LmEval.limit={self.limit} must be more than 0.")

    def open(self, subject: Subject) -> Evaluation:
        """Returns the evaluation, with the data of its tasks.

        Raises:
            UserError: see `palmscale.evals.lm_eval_tasks.load_tasks`.
        """
        tasks = suite_tasks(
            self.tasks,
            include_path=self.include_path,
            num_fewshot=self.num_fewshot,
            limit=self.limit,
        )
        layout = subject.layout
        rules = stored_rules(layout.rules)
        generation = DeviceLayout(
            mesh=layout.mesh,
            rules=generation_rules(rules, subject.params, layout.mesh.shape),
        )
        return _AtPeriod(
            every_steps=self.every_steps,
            tasks=tasks,
            subject=subject,
            layout=generation,
            context_length=self.context_length or subject.sequence_length,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _AtPeriod:
    """See `palmscale.train.evaluate.Evaluation`."""

    every_steps: int | None
    tasks: SuiteTasks
    subject: Subject
    layout: DeviceLayout
    context_length: int

    def __call__(self, state: Any) -> dict[str, float]:
        trained = Trained(
            model=self.subject.model,
            params=state.params,
            vocabulary=self.subject.vocabulary,
            step=int(state.step),
            meta={},
            layout=self.layout,
        )
        # The parameters stay the trainer's: what the candidate holds is gone when it is.
        candidate = candidate_of(
            trained,
            context_length=self.context_length,
            progress=lambda what, done, total: self.subject.beat(),
        )
        return self.tasks(candidate)
