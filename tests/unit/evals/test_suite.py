"""The suite `palm-29 (lm-eval prompts)`."""

import importlib.util
import pathlib

import local_tasks
import pytest

from palmscale.errors import UserError
from palmscale.evals import suite
from palmscale.evals.lm_eval_tasks import builtin_tasks
from palmscale.evals.suite import MISSING, NLG, NLU, PALM_29, averages, suite_tasks

# Of lm-eval's thousands of task files; reading all takes as long as ten other tests.
FOLDERS = (
    "anli", "arc", "coqa", "drop", "glue", "hellaswag", "lambada", "nq_open", "openbookqa", "piqa",
    "race", "squadv2", "storycloze", "super_glue", "triviaqa", "webqs", "winogrande", "wsc273",
)  # fmt: skip


def test_every_name_is_a_task_of_lm_eval():
    from lm_eval.tasks import TaskManager

    tasks = pathlib.Path(importlib.util.find_spec("lm_eval").origin).with_name("tasks")
    folders = [tasks / folder for folder in FOLDERS]
    known = TaskManager(include_path=folders, include_defaults=False).all_subtasks
    assert not [name for name in [*NLG, *NLU] if name not in known]


@pytest.mark.long
def test_every_name_is_a_task_of_lm_evals_registry():
    assert {*NLG, *NLU} <= set(builtin_tasks().all_subtasks)


def test_with_what_is_missing_it_has_the_papers_29_tasks():
    assert len(NLG) + 1 == 8 and len(NLU) + 1 == 21 and len(MISSING) == 2


def test_averages_are_of_one_metric_a_task_between_0_and_1():
    found = {
        "eval/triviaqa/exact_match/remove_whitespace": 0.25,
        "eval/squadv2/f1": 75.0,
        "eval/squadv2/exact": 9.0,
        "eval/race/acc": 0.5,
        "eval/arc_easy/acc": 0.1,
        "eval/arc_easy/acc_norm": 0.3,
    }
    expected = {"eval/palm-29/nlg": 0.5, "eval/palm-29/nlu": 0.4}
    assert averages(found) == pytest.approx(expected)
    assert averages({"eval/other/acc": 1.0}) == {}


def test_the_suite_is_asked_with_one_shot_and_other_tasks_as_they_are(
    tmp_path, monkeypatch, caplog
):
    local_tasks.write(tmp_path, names=["arc_easy", "lambada_openai"])
    monkeypatch.setattr(suite, "NLG", {"lambada_openai_local": ("acc", 1)})
    monkeypatch.setattr(suite, "NLU", {})
    found = suite_tasks(["arc_easy_local", PALM_29], include_path=str(tmp_path))
    assert [(part.num_fewshot, *part.tasks["tasks"]) for part in found.parts] == [
        (1, "lambada_openai_local"),
        (None, "arc_easy_local"),
    ]
    assert found.averages
    assert not suite_tasks(["arc_easy_local"], include_path=str(tmp_path)).averages


def test_a_task_of_the_suite_can_be_left_out(tmp_path, monkeypatch):
    local_tasks.write(tmp_path, names=["lambada_openai"])
    local = {"lambada_openai_local": ("acc", 1), "none": ("acc", 1)}
    monkeypatch.setattr(suite, "NLG", local)
    monkeypatch.setattr(suite, "NLU", {})
    found = suite_tasks([PALM_29, "-none"], include_path=str(tmp_path))
    assert [*found.parts[0].tasks["tasks"]] == ["lambada_openai_local"]
    for names, message in (
        ([PALM_29, "-nonne"], "nonne is no task of palm-29 to be left out; did you mean none?"),
        (["lambada_openai_local", "-none"], "-none leaves out a task of palm-29"),
        ([PALM_29], "limit=0 must be more than 0"),
    ):
        with pytest.raises(UserError, match=message):
            limit = 0 if "limit" in message else None
            suite_tasks(names, include_path=str(tmp_path), limit=limit)
