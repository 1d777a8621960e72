"""`palmscale new` writes a run file that trains as it is."""

import json

import pytest
import tiny_run
from tiny_sentencepiece import train as train_vocabulary

from palmscale.cli import main
from palmscale.cli.config import load


@pytest.fixture(autouse=True)
def no_configuration_is_left():
    yield
    load.reset()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my text").mkdir()
    for name in "abcd":
        (tmp_path / f"my text/{name}.txt").write_text(f"once there was a {name}\n" * 400)
    return tmp_path


def new(*arguments):
    return main.run(["new", *map(str, arguments)])


def test_the_file_trains_to_step_20_unedited_and_its_settings_are_explained(folder):
    file, workdir = folder / "my.gin", folder / "run"
    train = ["train", f"--gin_file={file}", f"--workdir={workdir}", "--gin.TRAIN_STEPS=20"]
    answers = tiny_run.run_each(
        [
            ["new", file, "--size=100k", f"--text={folder}/my text/*.txt"],
            [*train, f"--gin.CACHE_DIRECTORY={folder}/caches"],
            ["explain", "--settings", f"--gin_file={file}"],
        ]
    )
    assert [answer.returncode for answer in answers] == [0, 0, 0], answers
    assert f"palmscale train --gin_file={file}" in answers[0].stdout
    lines = tiny_run.metrics(workdir)
    assert lines[-1]["step"] == 20 and lines[-1]["loss"] < lines[0]["loss"]
    assert f"{file}:" in answers[2].stdout and "BATCH_SCHEDULE" in answers[2].stdout


def test_it_states_size_text_and_vocabulary(folder, capsys):
    vocabulary = train_vocabulary(folder / "m", split_digits=True)
    (folder / "my.jsonl").write_text("".join(json.dumps({"text": "a b"}) + "\n" for _ in range(9)))
    assert new("my.gin", "--size=11m", "--text=my.jsonl", f"--vocab={vocabulary}") == 0
    run = load.load_run("my.gin")
    assert run.data.vocabulary == str(vocabulary)
    assert run.data.corpus.source.files == "my.jsonl"
    assert run.model.num_tokens < 1000 and run.model.stored_tokens % 16 == 0
    (said,) = capsys.readouterr().out.splitlines()
    count = int(said.split()[3].replace(",", ""))
    assert count == pytest.approx(11e6, rel=0.1)
    assert run.optimizer.learning_rate.hold_steps < run.training.steps


@pytest.mark.parametrize("size", ["8b", "62B", "540b"])
def test_the_papers_sizes_are_the_papers_runs(folder, size):
    assert new("my.gin", f"--size={size}", "--text=my text/*.txt") == 0
    ours, paper = (
        load.load_run(path) for path in ("my.gin", f"configs/runs/palm_{size.lower()}.gin")
    )
    assert ours.model == paper.model.clone(num_tokens=259, padded_tokens=ours.model.padded_tokens)
    assert ours.training == paper.training and ours.data.corpus != paper.data.corpus


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["my.gin", "--size=big"], "'big' is not a size"),
        (["my.gin", "--size=1m", "--text=none/*.txt"], "none/*.txt"),
        (["my.gin", "--size=1m", "--vocab=none.model"], "none.model"),
        (["my.gin", "--size=100"], "no PaLM of about 100 parameters"),
        (["no/my.gin", "--size=1m"], "no/my.gin cannot be written (No such file or directory)"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_file(folder, capsys, arguments, message):
    assert new(*arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err and len(captured.err.splitlines()) == 1 and not captured.out
    assert not list(folder.glob("*.gin"))


def test_a_file_that_exists_is_not_replaced(folder, capsys):
    (folder / "my.gin").write_text("mine")
    assert new("my.gin", "--size=1m") == 2
    assert "my.gin exists and is not replaced" in capsys.readouterr().err
    assert (folder / "my.gin").read_text() == "mine"
