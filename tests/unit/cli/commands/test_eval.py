"""What `palmscale eval` does without gin files; a whole run is in test_train.py."""

import dataclasses
import json
import shutil
import sys

import forged
import local_tasks
import pytest
from small_run import on_text

import palmscale
from palmscale.cli import main


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Of a run that was built in Python, which has no config.gin."""
    folder = tmp_path_factory.mktemp("python")
    run = on_text(folder)
    training = dataclasses.replace(run.training, steps=2)
    run = dataclasses.replace(run, saving=dataclasses.replace(run.saving, every_steps=1))
    return palmscale.train(dataclasses.replace(run, training=training), folder / "run").workdir


def test_a_run_that_was_built_in_python_is_evaluated_as_its_checkpoint_describes_it(
    workdir, capsys
):
    assert main.run(["eval", f"--workdir={workdir}"]) == 0
    first, *values = capsys.readouterr().out.splitlines()
    assert first == "step 2" and values[0].startswith("eval_loss ")


def test_it_cannot_be_changed_by_gin_settings(workdir, capsys):
    assert main.run(["eval", f"--workdir={workdir}", "--gin.EVAL_SEQUENCES=3"]) == 2
    assert "--gin.EVAL_SEQUENCES=3 needs gin files" in capsys.readouterr().err


def test_what_is_no_run_says_what_is_missing(tmp_path, capsys):
    assert main.run(["eval", f"--workdir={tmp_path}"]) == 2
    assert "there is no run in" in capsys.readouterr().err


def test_all_checkpoints_are_one_table(workdir, capsys):
    assert main.run(["eval", f"--workdir={workdir}", "--checkpoint=all"]) == 0
    heading, _, *rows = capsys.readouterr().out.splitlines()
    assert heading.split() == ["metric", "step", "1", "step", "2"]
    assert [row.split()[0] for row in rows[:2]] == ["eval_loss", "eval_perplexity"]
    assert all(len(row.split()) == 3 for row in rows)


def test_tasks_and_text_are_printed_and_written_as_json(workdir, tmp_path, capsys):
    folder = local_tasks.write(tmp_path / "tasks", documents=2, names=["arc_easy"])
    (tmp_path / "a.txt").write_text("def a(x):")
    flags = [
        "--tasks=arc_easy_local", f"--include_path={folder}", "--num_fewshot=1", "--limit=1",
        f"--text_files={tmp_path}/a.txt", "--context_length=128", f"--json={tmp_path}/out.json",
    ]  # fmt: skip
    assert main.run(["eval", f"--workdir={workdir}", *flags]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    (found,) = json.loads((tmp_path / "out.json").read_text())
    names = ["eval/text/loss", "eval/text/perplexity", "eval/text/bits_per_byte"]
    names += ["eval/arc_easy_local/acc", "eval/arc_easy_local/acc_norm"]
    assert first == "step 2" and [line.split()[0] for line in lines] == names
    assert list(found) == ["step", *names]


def test_a_mistake_is_one_line_and_exit_code_2(workdir, tmp_path, capsys, monkeypatch):
    local_tasks.write(tmp_path, documents=1, names=["arc_easy"])
    command = ["eval", f"--workdir={workdir}"]
    for flags, told in (
        ([f"--text_files={tmp_path}/none*"], "matches no file"),
        (["--tasks=a", f"--include_path={tmp_path}/none"], "is not a folder"),
        (["--tasks=arc_easy_local,arc_easy_local", f"--include_path={tmp_path}"], "asked for"),
        (["--checkpoint=some"], "some is not a checkpoint; give all, latest, best or a step"),
        (["--tasks=,"], "names no task"),
    ):
        assert main.run([*command, *flags]) == 2
        (line,) = [x for x in capsys.readouterr().err.splitlines() if "error" in x]
        assert told in line
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    assert main.run([*command, "--tasks=a", f"--include_path={tmp_path}"]) == 2
    assert "pip install 'palmscale[eval]'" in capsys.readouterr().err


def test_weights_without_a_run_need_tasks_or_text(workdir, tmp_path, capsys):
    copy = shutil.copytree(workdir, tmp_path / "imported")
    for step in copy.glob("checkpoints/[0-9]*"):
        forged.edit(step, "meta.json", lambda meta: {k: v for k, v in meta.items() if k != "run"})
    assert main.run(["eval", f"--workdir={copy}"]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "error" in x]
    assert "its checkpoints describe no run" in line and "--tasks or --text_files" in line
