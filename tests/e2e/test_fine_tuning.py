"""A run that fine-tunes another one on prompts and completions, as a user types it."""

import gzip
import itertools
import json
import signal

import pytest
import tiny_job
import tiny_run
from tiny_job import Job

# The task: the last letter of three, thrice. The base has never seen it.
PAIRS = [("".join(word), 3 * word[-1]) for word in itertools.product("abcd", repeat=3)]
FIELDS = {
    "PROMPT_KEY": "question",
    "TEXT_KEY": "answers.0.text",
    "SEPARATOR": "=",
    "LEARNING_RATE": 1e-2,  # the paper's is for models a million times as large
    "TRAIN_STEPS": 80,
}


def write_examples(path):
    records = [{"question": ask, "answers": [{"text": answer}]} for ask, answer in PAIRS]
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


@pytest.fixture(scope="module")
def fine_tune(finished, caches, tmp_path_factory):
    """The arguments of a command about a fine-tune of the finished run."""
    examples = tmp_path_factory.mktemp("examples") / "a.jsonl.gz"
    write_examples(examples)

    def arguments(workdir, *, command=("train",), **changes):
        values = FIELDS | {"BASE": finished, "JSONL_FILES": examples, "CACHE_DIRECTORY": caches}
        flags = ["--gin_file=configs/runs/finetune.gin"]
        flags += [f"--workdir={workdir}"] if workdir else []
        return [*command, *flags, *tiny_run.bindings(values | changes)]

    return arguments


@pytest.fixture(scope="module")
def tuned(fine_tune, tmp_path_factory):
    """The workdir of a finished fine-tune, and what the command said."""
    workdir = tmp_path_factory.mktemp("tuned") / "run"
    return workdir, tiny_run.run(*fine_tune(workdir)).stderr


def test_a_fine_tune_solves_the_task_that_its_base_does_not(tuned, finished, fine_tune, tmp_path):
    workdir, said = tuned
    assert f"from step {tiny_run.TRAIN_STEPS} of {finished}" in said
    lines = [{"id": ask, "prompt": f"{ask}="} for ask, _ in PAIRS]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    runs = {"base": finished, "tuned": workdir}
    ask = [f"--jsonl={tmp_path / 'prompts.jsonl'}", "--greedy", "--max_tokens=4"]
    answers = tiny_run.run_each(
        [["generate", f"--workdir={run}", *ask] for run in runs.values()]
        + [fine_tune(run, command=("eval",)) for run in runs.values()]
    )
    assert [answer.returncode for answer in answers] == [0] * 4, answers
    right = {}
    for name, answer in zip(runs, answers):
        texts = {line["id"]: line["text"] for line in map(json.loads, answer.stdout.splitlines())}
        right[name] = sum(texts[ask] == wanted for ask, wanted in PAIRS)
    assert right["base"] == 0 and right["tuned"] >= 60, right
    base, own = (evaluated.stdout for evaluated in answers[2:])
    assert bits_per_byte(own) < 1 < bits_per_byte(base) - 1, (base, own)
    last = tiny_run.metrics(workdir)[-1]
    assert last["eval_bits_per_byte"] == pytest.approx(bits_per_byte(own), rel=1e-3)
    assert last["eval_bits_per_byte"] > last["eval_loss"]  # eods have loss, but no bytes


def bits_per_byte(printed):
    (line,) = [line for line in printed.splitlines() if "bits" in line]
    return float(next(word for word in line.replace(",", " ").split() if "." in word))


def test_rows_show_what_has_loss_and_the_model_is_the_bases(tuned, finished, fine_tune, tmp_path):
    data = tiny_run.bindings({"PaLM.remat": "full"})
    answers = tiny_run.run_each(
        [
            fine_tune(None, command=("data", "show", "--rows=1")),
            fine_tune(tuned[0]),
            fine_tune(tuned[0], BASE=tuned[0]),
            fine_tune(tmp_path / "other", PROMPT_KEY="qestion"),
            [*fine_tune(tmp_path / "other"), *data],
        ]
    )
    shown, again, own, wrong, unused = answers
    assert "=\n[completion]\n" in shown.stdout and "with loss" in shown.stdout
    assert again.returncode == 0 and "There is nothing to do" in again.stderr
    assert [answer.returncode for answer in (own, wrong, unused)] == [2] * 3, answers
    assert "is the run's own folder" in own.stderr
    assert "did you mean question?" in wrong.stderr and "--gin.PROMPT_KEY" in wrong.stderr
    assert "PaLM.remat has no effect" in unused.stderr
    meta, base = (
        json.loads((run / f"checkpoints/{step}/meta.json").read_text())
        for run, step in ((tuned[0], FIELDS["TRAIN_STEPS"]), (finished, tiny_run.TRAIN_STEPS))
    )
    assert meta["identity"]["model"] == base["identity"]["model"] | {"dropout": 0.1}
    assert meta["vocabulary"] == base["vocabulary"]


@pytest.mark.long
def test_killed_on_two_hosts_and_a_mesh_of_two_by_two_it_ends_bit_for_bit_equal(
    fine_tune, tmp_path
):
    mesh = tiny_job.QUICK | {"SIMULATED_DEVICES": 2, "DATA": 2, "MODEL_PARALLEL": 2}
    steps = {"TRAIN_STEPS": 8, "SAVE_EVERY_STEPS": 2, "EVAL_EVERY_STEPS": 4}
    reference, workdir = tmp_path / "undisturbed", tmp_path / "run"
    with Job(fine_tune(reference, **mesh, **steps), tmp_path / "a", processes=2) as job:
        job.succeed()
    killed = tiny_job.AT_STEP.format(step=5, act="import os; os.kill(os.getpid(), 9)")
    command = fine_tune(workdir, **mesh, **steps)
    with Job(command, tmp_path / "b", processes=2, code={1: killed}) as job:
        codes = job.wait()
        assert codes[1] == -signal.SIGKILL and codes[0] not in (0, 2), codes
    assert tiny_run.steps(workdir)
    with Job(command, tmp_path / "c", processes=2) as job:
        job.succeed()
        assert "Resuming after step" in job.said(0) and "Warm start" not in job.said(0)
    tiny_run.assert_same_end(workdir, reference)
