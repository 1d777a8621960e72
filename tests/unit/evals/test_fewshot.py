"""SeqIO tasks with their own metrics on a candidate's answers and scores."""

import importlib.util
import math

import numpy as np
import pytest

from palmscale.data.vocabulary import ByteVocabulary
from palmscale.errors import UserError
from palmscale.evals.candidate import Candidate
from palmscale.evals.fewshot import load_seqio_task
from palmscale.evals.suite import suite_tasks
from palmscale.infer.likelihoods import Likelihood

if not all(map(importlib.util.find_spec, ("tensorflow", "seqio"))):
    pytest.skip("needs TensorFlow and SeqIO", allow_module_level=True)

ANSWERS = {"2 + 2 =": "4", "3 + 3 =": "7"}


class Answering(Candidate):
    """It answers a question of `ANSWERS` at the end of a prompt, and likes short targets."""

    def continuations(self, requests, *, slots=8):
        self.asked.extend(requests)
        return [ANSWERS[request.prompt.strip("\n").rpartition("\n")[2]] for request in requests]

    def likelihoods(self, pairs):
        return [Likelihood(-float(len(pair.continuation)), False) for pair in pairs]


@pytest.fixture
def answering():
    found = Answering(
        model=None, variables=None, vocabulary=ByteVocabulary(), layout=None, context_length=99
    )
    object.__setattr__(found, "asked", [])
    return found


def exact(targets, predictions):
    return {"exact": np.mean([t == p for t, p in zip(targets, predictions)])}


def mean_score(targets, scores):
    assert targets == [4, 6]
    return {"mean_score": np.mean(scores), "note": "text"}


@pytest.fixture(scope="module", autouse=True)
def registered():
    from palmscale.data.sources.seqio_tasks import import_seqio

    seqio = import_seqio()
    import tensorflow as tf

    rows = {"train": [("1 + 1 =", "2"), ("9 + 0 =", "9")],
            "validation": [("2 + 2 =", "4"), ("3 + 3 =", "6")]}  # fmt: skip

    def dataset(split, shuffle_files, seed=None):
        inputs, targets = map(list, zip(*rows[split]))
        return tf.data.Dataset.from_tensor_slices({"inputs": inputs, "targets": targets})

    features = {name: seqio.Feature(seqio.ByteVocabulary()) for name in ("inputs", "targets")}
    for name, metrics in (("evals_sums", [exact, mean_score]), ("evals_mute", [])):
        seqio.TaskRegistry.add(
            name,
            source=seqio.FunctionDataSource(dataset, splits=("train", "validation")),
            preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
            output_features=features,
            metric_fns=metrics,
            postprocess_fn=lambda text, example, is_target: int(text),
        )


def test_metrics_of_answers_and_of_scores_are_the_tasks_own(answering):
    found = load_seqio_task("evals_sums")(answering)
    assert found == {"eval/evals_sums/exact": 0.5, "eval/evals_sums/mean_score": -1.0}
    assert [request.prompt for request in answering.asked] == ["2 + 2 =\n", "3 + 3 =\n"]


def test_shots_come_from_the_training_split_and_their_separator_ends_an_answer(answering):
    found = load_seqio_task("evals_sums", num_fewshot=2, limit=1)
    assert found.shots == "1 + 1 =\n2\n\n9 + 0 =\n9\n\n" and len(found.examples) == 1
    with pytest.raises(AssertionError):  # of mean_score, which wants both targets
        found(answering)
    (request,) = answering.asked
    assert request.prompt == f"{found.shots}2 + 2 =\n" and request.stop == ("\n\n",)


def test_it_is_one_of_the_tasks_by_its_prefix(answering):
    found = suite_tasks(["seqio:evals_sums"])(answering)
    assert found["eval/evals_sums/exact"] == 0.5 and math.isfinite(sum(found.values()))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("evals_sum", "evals_sum is not registered as a SeqIO task; did you mean evals_sums?"),
        ("evals_mute", "evals_mute has no metric_fns"),
    ],
)
def test_a_mistake_is_told(name, message):
    with pytest.raises(UserError, match=message):
        load_seqio_task(name)
