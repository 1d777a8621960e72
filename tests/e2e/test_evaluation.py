"""Tasks of lm-eval on two processes of a job: while they train, afterwards, and on one alone."""

import json

import local_tasks
import pytest
import tiny_run
from tiny_job import PAIR, Job

from palmscale.evals.suite import suite_tasks
from palmscale.evals.workdir import evaluate_workdir

TASKS = [f"{name}_local" for name in local_tasks.NAMES]
CONTEXT, STEPS = 320, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return local_tasks.write(tmp_path_factory.mktemp("tasks"), documents=2)


@pytest.fixture(scope="module")
def workdir(tiny, folder, tmp_path_factory):
    """Of a job of two processes that evaluated the tasks at its last step."""
    workdir = tmp_path_factory.mktemp("pair") / "run"
    changes = PAIR | {
        "TRAIN_STEPS": STEPS,
        "TASKS": tuple(TASKS),
        "TASKS_EVERY_STEPS": STEPS,
        "TASKS_INCLUDE_PATH": folder,
        "TASKS_CONTEXT_LENGTH": CONTEXT,
    }
    command = [*tiny(workdir, **changes), "--gin_file=configs/evals/lm_eval.gin"]
    with Job(command, workdir.with_name("logs"), processes=2) as job:
        job.succeed()
    return workdir


@pytest.fixture(scope="module")
def in_training(workdir):
    """The tasks' metrics in metrics.jsonl, by name."""
    first, last = tiny_run.metrics(workdir)
    assert not any(name.startswith("eval/") for name in first)
    return {name: value for name, value in last.items() if name.startswith("eval/")}


def test_in_training_they_say_what_one_process_says_of_the_checkpoint(in_training, workdir, folder):
    def opened():
        return [suite_tasks(TASKS, include_path=str(folder))]

    (found,) = evaluate_workdir(workdir, opened, context_length=CONTEXT)
    assert found.step == STEPS and len(found.metrics) == 2 + 2 + 2 + 1 + 3
    assert found.metrics == pytest.approx(in_training, rel=1e-5)


def test_so_does_the_command_on_two_processes_one_of_which_writes(in_training, workdir, folder):
    file = workdir.with_name("pair.json")
    command = [
        "eval", f"--workdir={workdir}", f"--tasks={','.join(TASKS)}", f"--include_path={folder}",
        f"--context_length={CONTEXT}", f"--json={file}",
    ]  # fmt: skip
    with Job(command, workdir.with_name("eval_logs"), processes=2) as job:
        job.succeed()
        said = [job.said(index) for index in range(2)]
    (found,) = json.loads(file.read_text())
    assert found == pytest.approx({"step": STEPS, **in_training}, rel=1e-5)
    assert "eval/arc_easy_local/acc" in said[0] and "eval/arc_easy_local/acc" not in said[1]
