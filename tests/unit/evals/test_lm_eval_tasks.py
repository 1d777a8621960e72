"""Tasks of lm-eval: five of its own on local data, in process and through the server alike."""

import math
import random
import sys
from types import SimpleNamespace

import local_tasks
import numpy as np
import pytest
from http_server import serving

from palmscale.errors import UserError
from palmscale.evals import lm_eval_tasks
from palmscale.evals.lm_eval_model import CandidateLM
from palmscale.evals.lm_eval_tasks import load_tasks
from palmscale.infer.engine import Engine
from palmscale.serve.served import Served

LOCAL = [f"{name}_local" for name in local_tasks.NAMES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return local_tasks.write(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def imported_before():
    return set(sys.modules)


@pytest.fixture(scope="module")
def tasks(folder, imported_before):
    return load_tasks(LOCAL, include_path=str(folder), num_fewshot=1)


@pytest.fixture(scope="module")
def found(tasks, candidate):
    return tasks(candidate)


def test_each_task_has_the_metrics_of_lm_eval(found):
    assert {name.removeprefix("eval/") for name in found} == {
        "arc_easy_local/acc",
        "arc_easy_local/acc_norm",
        "hellaswag_local/acc",
        "hellaswag_local/acc_norm",
        "lambada_openai_local/acc",
        "lambada_openai_local/perplexity",
        "triviaqa_local/exact_match/remove_whitespace",
        "wikitext_local/bits_per_byte",
        "wikitext_local/byte_perplexity",
        "wikitext_local/word_perplexity",
    }
    assert all(map(math.isfinite, found.values()))


def test_a_second_evaluation_is_the_same_and_draws_nothing_of_the_program(found, tasks, candidate):
    random.seed(5)
    np.random.seed(5)
    expected = random.Random(5).random(), np.random.RandomState(5).rand()
    assert tasks(candidate) == found
    assert (random.random(), np.random.rand()) == expected


def test_no_torch_and_no_tensorflow_are_imported(found, imported_before):
    imported = sys.modules.keys() - imported_before
    assert not {"torch", "tensorflow", "transformers", "seqio"} & imported


def told(lm, tasks):
    """(metrics, the answers to each question) of a model, as lm-eval itself has them."""
    from lm_eval.evaluator import evaluate

    for task in tasks.tasks["tasks"].values():
        task.set_fewshot_seed(seed=1234)
    results = evaluate(lm=lm, task_dict=dict(tasks.tasks), bootstrap_iters=0, log_samples=True)
    answers = {
        name: [sample["resps"] for sample in samples]
        for name, samples in results["samples"].items()
    }
    return results["results"], answers


def flat(answers):
    """The numbers of nested answers, and their texts."""
    if isinstance(answers, (list, tuple)):
        parts = [flat(item) for item in answers]
        return sum((p[0] for p in parts), []), sum((p[1] for p in parts), [])
    return ([], [answers]) if isinstance(answers, str) else ([float(answers)], [])


def test_the_server_and_local_completions_give_the_same_answers(tasks, candidate, found):
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    def load():
        engine = Engine(
            model=candidate.model,
            variables=candidate.variables,
            slots=4,
            context_length=candidate.context_length,
        )
        return Served(engine=engine, vocabulary=candidate.vocabulary, name="tiny", num_tokens=259)

    metrics, answers = told(CandidateLM(candidate), tasks)
    with serving(load) as server:
        client = LocalCompletionsAPI(
            model="tiny",
            base_url=f"{server.url}/v1/completions",
            max_length=candidate.context_length,
            custom_prefix_token_id=0,
        )
        served_metrics, served_answers = told(client, tasks)
    assert served_answers.keys() == answers.keys() == set(LOCAL)
    for name in LOCAL:
        numbers, texts = flat(answers[name])
        served_numbers, served_texts = flat(served_answers[name])
        assert served_texts == texts, name
        np.testing.assert_allclose(served_numbers, numbers, rtol=1e-5, atol=1e-4, err_msg=name)
        for metric in ("acc,none", "acc_norm,none", "exact_match,remove_whitespace"):
            assert served_metrics[name].get(metric) == metrics[name].get(metric), (name, metric)
    assert any(flat(answers["triviaqa_local"])[1])  # some text was written
    near = pytest.approx(found["eval/wikitext_local/bits_per_byte"], abs=1e-5)
    assert served_metrics["wikitext_local"]["bits_per_byte,none"] == near


def test_a_limit_and_the_tasks_own_shots(folder, candidate):
    tasks = load_tasks(["arc_easy_local"], include_path=str(folder), limit=2)
    tasks(candidate)
    (task,) = tasks.tasks["tasks"].values()
    assert len(task.instances) == 2 * 4 and task.get_config("num_fewshot") == 0
    assert task.instances[0].args[0].count("Question:") == 1


def test_a_mistyped_task_is_told_with_the_nearest_of_all(folder, monkeypatch):
    own = SimpleNamespace(all_tasks=["hellaswag", "piqa"])
    monkeypatch.setattr(lm_eval_tasks, "builtin_tasks", lambda: own)
    for name, told in (
        ("arc_easy_locl", "did you mean arc_easy_local?"),
        ("helaswag", "did you mean hellaswag?"),
        ("zzz", "`lm-eval ls tasks` lists them all"),
    ):
        with pytest.raises(UserError, match=rf"unknown task {name}; {told}"):
            load_tasks(["arc_easy_local", name], include_path=str(folder))


def test_a_task_that_is_named_twice_or_has_no_data_is_told(folder, tmp_path):
    with pytest.raises(UserError, match="arc_easy_local is asked for twice"):
        load_tasks(["arc_easy_local"] * 2, include_path=str(folder))
    local_tasks.write(tmp_path, names=["lambada_openai"])
    (tmp_path / "lambada_openai.jsonl").unlink()
    with pytest.raises(UserError, match="the task lambada_openai_local cannot be loaded.*jsonl"):
        load_tasks(["lambada_openai_local"], include_path=str(tmp_path))
    with pytest.raises(UserError, match="include_path=.*is not a folder"):
        load_tasks(["arc_easy_local"], include_path=str(tmp_path / "none"))


def test_what_runs_the_models_own_code_is_refused(folder, tmp_path):
    text = (folder / "arc_easy.yaml").read_text()
    (tmp_path / "unsafe.yaml").write_text(text.replace('"tag": null', '"unsafe_code": true'))
    with pytest.raises(UserError, match="arc_easy_local runs code that the model writes"):
        load_tasks(["arc_easy_local"], include_path=str(tmp_path))


def test_without_lm_eval_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(UserError, match=r"pip install 'palmscale\[eval\]'"):
        load_tasks(["arc_easy"])
