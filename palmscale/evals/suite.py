"""The suite `palm-29 (lm-eval prompts)`: the English tasks of the PaLM paper, by lm-eval's names.

Chowdhery et al. 2022 (arXiv:2204.02311, section 6.1) report 29 tasks, of which 8 generate text
(NLG) and 21 choose (NLU). lm-eval has neither QuAC nor RACE-middle, and its prompts are not the
paper's, which are unpublished: the averages say where a model stands, not by how many tenths it
differs from the paper.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from palmscale.errors import UserError
from palmscale.evals.candidate import Candidate
from palmscale.evals.fewshot import PREFIX, SeqioEvaluation, load_seqio_task
from palmscale.evals.lm_eval_tasks import LmEvalTasks, load_tasks
from palmscale.observe import log
from palmscale.run.nearest import did_you_mean

PALM_29 = "palm-29"
MISSING = ("QuAC", "RACE-middle")
# Task -> the metric that enters the average, and its largest value.
NLG: dict[str, tuple[str, float]] = {
    "triviaqa": ("exact_match", 1),
    "nq_open": ("exact_match", 1),
    "webqs": ("exact_match", 1),
    "lambada_openai": ("acc", 1),
    "drop": ("f1", 1),
    "coqa": ("f1", 1),
    "squadv2": ("f1", 100),
}
NLU: dict[str, tuple[str, float]] = {
    "hellaswag": ("acc_norm", 1),
    "storycloze_2016": ("acc", 1),
    "wsc273": ("acc", 1),
    "winogrande": ("acc", 1),
    "piqa": ("acc_norm", 1),
    "arc_easy": ("acc_norm", 1),
    "arc_challenge": ("acc_norm", 1),
    "openbookqa": ("acc_norm", 1),
    "race": ("acc", 1),
    "boolq": ("acc", 1),
    "cb": ("acc", 1),
    "copa": ("acc", 1),
    "rte": ("acc", 1),
    "wic": ("acc", 1),
    "wsc": ("acc", 1),
    "multirc": ("acc", 1),
    "record": ("f1", 1),
    "anli_r1": ("acc", 1),
    "anli_r2": ("acc", 1),
    "anli_r3": ("acc", 1),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SuiteTasks:
    """Tasks, and the averages of the suite if it is among them.

    Attributes:
        parts: tasks with their data; those of the suite come first, and SeqIO's last.
        averages: whether to return `eval/palm-29/nlg` and `eval/palm-29/nlu`, 0 to 1.
    """

    parts: tuple[LmEvalTasks | SeqioEvaluation, ...]
    averages: bool = False

    def __call__(self, candidate: Candidate) -> dict[str, float]:
        """Returns the metrics of a candidate; see `LmEvalTasks`."""
        found: dict[str, float] = {}
        for part in self.parts:
            found |= part(candidate)
        return found | (averages(found) if self.averages else {})


def suite_tasks(
    names: Sequence[str],
    *,
    include_path: str | None = None,
    num_fewshot: int | None = None,
    limit: float | None = None,
) -> SuiteTasks:
    """Returns tasks by lm-eval's names, those of the suite for `palm-29`, and SeqIO's.

    Args:
        names: see `load_tasks`, as for the other arguments. `seqio:NAME` is a task of SeqIO, see
            `load_seqio_task`; `-NAME` leaves a task of the suite out.
        num_fewshot: for the suite, None is 1, as in the paper.

    Raises:
        UserError: `limit` is not positive; see also `load_tasks` and `load_seqio_task`.
    """
    if limit is not None and limit <= 0:
        raise UserError(f"limit={limit} must be more than 0.")
    of_seqio = [name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX)]
    left_out = {name[1:] for name in names if name.startswith("-")}
    own = [name for name in names if name != PALM_29 and not name.startswith((PREFIX, "-"))]
    shared = {"include_path": include_path, "limit": limit}
    parts: list[LmEvalTasks | SeqioEvaluation] = []
    if has_suite := PALM_29 in names:
        parts.append(
            _suite(left_out, num_fewshot=1 if num_fewshot is None else num_fewshot, **shared)
        )
    elif left_out:
        raise UserError(f"-{min(left_out)} leaves out a task of {PALM_29}, which is not asked for.")
    if own:
        parts.append(load_tasks(own, num_fewshot=num_fewshot, **shared))
    for name in of_seqio:
        parts.append(load_seqio_task(name, num_fewshot=num_fewshot, limit=limit))
    return SuiteTasks(parts=tuple(parts), averages=has_suite)


def _suite(left_out: Collection[str], **settings: Any) -> LmEvalTasks:
    suite = [*NLG, *NLU]
    if wrong := sorted(set(left_out) - set(suite)):
        raise UserError(
            f"{wrong[0]} is no task of {PALM_29} to be left out{did_you_mean(wrong[0], suite)}"
        )
    names = [name for name in suite if name not in left_out]
    log.say(
        f"{PALM_29} (lm-eval prompts): {len(names)} of the paper's 29 tasks;"
        f" {' and '.join(MISSING)} are not in lm-eval. Its prompts are not the paper's: do not"
        " compare digit by digit."
    )
    return load_tasks(names, **settings)


def averages(metrics: Mapping[str, float]) -> dict[str, float]:
    """Returns the suite's averages over the tasks in `metrics`, 0 to 1."""
    return {
        f"eval/{PALM_29}/{kind}": float(np.mean(scores))
        for kind, tasks in (("nlg", NLG), ("nlu", NLU))
        if (scores := _scores(metrics, tasks))
    }


def _scores(metrics: Mapping[str, float], tasks: Mapping[str, tuple[str, float]]) -> list[float]:
    found = []
    for task, (metric, largest) in tasks.items():
        name = f"eval/{task}/{metric}"
        # A filter may follow the name: `eval/triviaqa/exact_match/remove_whitespace`.
        values = [v for key, v in metrics.items() if key == name or key.startswith(f"{name}/")]
        found += [value / largest for value in values[:1]]
    return found
