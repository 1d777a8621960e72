"""SeqIO tasks with their own metrics: prompts, answers and scores come from the engine.

TensorFlow reads the examples; a task's `metric_fns` are plain functions of targets and predictions,
or of targets and scores, and get what SeqIO's own Evaluator would give them.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from palmscale.data.sources.seqio_tasks import import_seqio
from palmscale.data.sources.task_errors import explained
from palmscale.errors import UserError
from palmscale.evals.candidate import Candidate
from palmscale.infer.continuation import TextRequest
from palmscale.infer.likelihoods import Pair
from palmscale.infer.text import encode_prompt
from palmscale.run.nearest import did_you_mean

PREFIX = "seqio:"  # of a SeqIO task among the names of lm-eval's
_JOIN, _BETWEEN = "\n", "\n\n"  # an input and its target; two examples
_SPARE_TOKENS = 32  # that an answer may have beyond the longest target


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeqioEvaluation:
    """A SeqIO task with its examples, to be evaluated any number of times.

    Attributes:
        task: the SeqIO task.
        examples: of its validation split, as its preprocessors yield them.
        shots: text before each input; empty: zero-shot.
    """

    task: Any
    examples: Sequence[Mapping[str, Any]]
    shots: str

    def __call__(self, candidate: Candidate) -> dict[str, float]:
        """Returns the metrics of a candidate as `eval/<task>/<metric>`."""
        inputs = [f"{self.shots}{_prompt(self.task, example)}" for example in self.examples]
        texts = [_text(self.task, example, "targets") for example in self.examples]
        targets = [
            self.task.postprocess_fn(text, example=example, is_target=True)
            for text, example in zip(texts, self.examples, strict=True)
        ]
        found: dict[str, Any] = {}
        if self.task.predict_metric_fns:
            answers = self._answers(candidate, inputs, texts)
            for function in self.task.predict_metric_fns:
                found |= function(targets, answers)
        if self.task.score_metric_fns:
            vocabulary = candidate.vocabulary
            pairs = [
                Pair(encode_prompt(vocabulary, prompt), vocabulary.encode(text))
                for prompt, text in zip(inputs, texts, strict=True)
            ]
            scores = [one.log_probability for one in candidate.likelihoods(pairs)]
            for function in self.task.score_metric_fns:
                found |= function(targets, scores)
        return {
            f"eval/{self.task.name}/{name}": float(value)
            for name, metric in found.items()
            if isinstance(value := getattr(metric, "value", metric), (int, float, np.number))
        }

    def _answers(
        self, candidate: Candidate, inputs: Sequence[str], texts: Sequence[str]
    ) -> list[Any]:
        longest = max(len(candidate.vocabulary.encode(text)) for text in texts)
        requests = [
            TextRequest(
                prompt=prompt,
                max_tokens=longest + _SPARE_TOKENS,
                temperature=0.0,
                stop=(_BETWEEN,) if self.shots else (),
            )
            for prompt in inputs
        ]
        return [
            self.task.postprocess_fn(text, example=example, is_target=False)
            for text, example in zip(candidate.continuations(requests), self.examples, strict=True)
        ]


def load_seqio_task(
    name: str, *, num_fewshot: int | None = None, limit: float | None = None
) -> SeqioEvaluation:
    """Returns a SeqIO task with the examples of its validation split.

    Args:
        name: of a Task in SeqIO's registry; the module that registers it must be imported.
        num_fewshot: examples of the split `train` before each input; None: 0.
        limit: examples: a number, or a share below 1; None: all.

    Raises:
        UserError: there is no such task, it has no metrics or no such split, or it cannot be read.
    """
    seqio = import_seqio()
    known = seqio.TaskRegistry.names()
    if name not in known:
        raise UserError(
            f"{name} is not registered as a SeqIO task{did_you_mean(name, known)}; import the"
            " module that registers it."
        )
    task = seqio.TaskRegistry.get(name)
    if not task.predict_metric_fns and not task.score_metric_fns:
        raise UserError(
            f"the SeqIO task {name} has no metric_fns of targets and predictions or scores; add"
            " one where it is registered."
        )
    examples = _examples(task, "validation", None)
    if limit is not None:
        count = int(limit) if limit >= 1 else int(np.ceil(limit * len(examples)))
        examples = examples[:count]
    if not examples:
        raise UserError(f"the SeqIO task {name} has no validation example; choose another task.")
    shots = "".join(
        f"{_prompt(task, example)}{_text(task, example, 'targets')}{_BETWEEN}"
        for example in (_examples(task, "train", num_fewshot) if num_fewshot else ())
    )
    return SeqioEvaluation(task=task, examples=examples, shots=shots)


def _examples(task: Any, split: str, count: int | None) -> list[dict[str, Any]]:
    if split not in task.splits:
        raise UserError(
            f"the SeqIO task {task.name} has no split {split!r} (it has {', '.join(task.splits)});"
            " add it to the task's source."
        )

    def read() -> Any:
        options = {"shuffle": False, "seed": 0, "num_epochs": 1, "try_in_mem_cache": False}
        return task.get_dataset(sequence_length=None, split=split, **options).as_numpy_iterator()

    return list(itertools.islice(explained(read, f"the SeqIO task {task.name}"), count))


def _prompt(task: Any, example: Mapping[str, Any]) -> str:
    text = _text(task, example, "inputs")
    return f"{text}{_JOIN}" if text else ""


def _text(task: Any, example: Mapping[str, Any], feature: str) -> str:
    """Returns the text of a feature: as it was before it was tokenized, if the task keeps that."""
    kept = example.get(f"{feature}_pretokenized")
    if isinstance(kept, bytes):
        return kept.decode()
    if feature not in example:
        return ""
    ids = np.asarray(example[feature]).tolist()
    return task.output_features[feature].vocabulary.decode(ids)
